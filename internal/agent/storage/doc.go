// Package storage keeps the exporters' queues in files, so that what an exporter has taken outlives
// the process, however that ends. It is a storage extension as exporterhelper's persistent queue wants
// one ([Storage]); nothing but this queue is meant to use it.
//
// # Files
//
// Each queue is a directory, DIRECTORY/EXPORTER.SIGNAL, with a log in segments. A batch of operations
// is one record: packed, written by one call, valid as a whole or not at all, since it has a checksum. The
// index is memory: where the value of each key is. A segment is removed when it and all before it hold
// no value any more, so the space that a queue takes follows what is in it, without any compaction.
// Nothing is mapped to memory: what is queued costs no RSS but for its index.
//
// Files are written and not synced: they outlive the process, killed or not, while a crash of the
// machine may cost what its kernel had not written yet.
//
// # Damage
//
// What is not as this package wrote it (cut off, overwritten, not readable, somebody else's) never
// keeps a queue from starting: it is moved beside, to NAME.damaged-TIME, and told of in one line of the
// log, and the queue goes on with the rest.
package storage
