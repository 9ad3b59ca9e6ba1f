// Package otlp sends pdata to any OTLP server: logs, metrics and traces, over gRPC ([NewGRPCLogs],
// [NewGRPCMetrics], [NewGRPCTraces]) or HTTP ([NewHTTPLogs], [NewHTTPMetrics], [NewHTTPTraces]).
//
// Queue, batching, retries and timeouts are the Collector's exporterhelper; TLS, headers, compression,
// proxies and authentication are its configgrpc and confighttp. [GRPCConfig] and [HTTPConfig] therefore
// have, field for field, the keys of the Collector's otlp and otlphttp exporters. The defaults differ
// where an agent that must lose nothing silently needs it; NewDefaultGRPCConfig and
// NewDefaultHTTPConfig say where.
//
// The signals do not differ in anything but what is counted as an item: a log record, a data point, a
// span.
//
// # Delivery
//
// What ConsumeLogs, ConsumeMetrics or ConsumeTraces took is sent at least once while the program runs:
// an answer that got lost makes the request go out again, and OTLP has nothing that would tell the two
// apart. Requests arrive in the order in which they were given, unless sending_queue.num_consumers is
// raised or sending_queue.batch is set: then they overtake each other.
//
// The queue is bounded. When it is full, the newest items are refused with
// [go.opentelemetry.io/collector/exporter/exporterhelper.ErrQueueIsFull] and, unless
// block_on_overflow is set, without delay; items already queued are kept. Without
// sending_queue.storage the queue is memory, and what it holds dies with the process; with it, a
// restart goes on where the last run ended.
//
// What the server answers decides:
//
//   - Retried, forever by default: gRPC CANCELLED, DEADLINE_EXCEEDED, ABORTED, OUT_OF_RANGE,
//     UNAVAILABLE, DATA_LOSS, and RESOURCE_EXHAUSTED with RetryInfo; HTTP 429, 502, 503, 504; no
//     answer at all. Also UNAUTHENTICATED, PERMISSION_DENIED, 401 and 403, which OTLP would give up: a
//     token that expired must cost nothing but time. RetryInfo and Retry-After are obeyed, up to five
//     minutes.
//   - Given up and counted as [Stats].Dropped: every other status. HTTP redirects are not followed,
//     since they would carry the configured headers, tokens among them, to wherever they point.
//   - Partial success is a success: never sent again, the rejected items are counted as
//     [Stats].Rejected.
//
// A batch above 4 MiB, which is as much as a gRPC server takes by default, goes out as several
// requests, in which each item is under its resource, its scope and its metric. For a server with a
// lower limit set sending_queue.batch, its sizer to bytes and its max_size to what it takes.
//
// Requests that wait in sending_queue.storage are as small as they came, and one round trip each would
// not make them fewer where the way to the server is long. So those that lie one behind the other are
// sent as one, until that is 1 MiB, and never more than 2 MiB, unless there are several consumers or
// sending_queue.batch is set.
//
// Text from the server is made printable and short before it is logged or becomes part of an error.
// Messages to the logger of the settings come at most once in ten seconds each.
//
// # Accounts
//
// [Stats] closes at any time: what came in is what was delivered, refused, dropped, given up, or waits.
// With sending_queue.storage each process accounts for what it has itself seen. So of what one process
// leaves, the next one counts more than was queued in two cases: when a batch was half sent, being too
// large for one request or put together with others, the whole of it is still in storage and sent
// again; and when a process was killed, so are the requests that were just then on their way.
//
// Not known is how many items were in a request that storage cannot give back. The queue skips it. If
// an earlier process had put it there, it is in none of the numbers; if this one has, its items stay
// in Queued.
//
// # TLS
//
// Nothing is sent in plain text unless tls.insecure or http:// says so. Unless tls.reload_interval is
// 0, replacing cert_file, key_file or ca_file needs no restart: the files are looked at before each
// attempt that follows a failed one, and else in that interval, and when their content has changed, a
// new connection is made with it. Files that do not fit together, as while they are being replaced,
// leave the connection as it is.
//
// While attempts fail, the host is told so by componentstatus, with the reason: a recoverable error,
// until one succeeds.
//
// # Recovery
//
// With the defaults, a server that was down is used within five seconds of its return: neither the
// wait between two attempts nor gRPC's wait between two connections exceeds 2.4 s. A server that
// vanished without closing its connections is noticed after ten seconds.
//
// # Compression
//
// The default is gzip, which every OTLP server must understand, and which costs more than all the rest
// of the export, unless the program registers a faster one with gRPC. For a Collector, zstd or snappy
// cost a fraction of it; on the same host, none does.
package otlp
