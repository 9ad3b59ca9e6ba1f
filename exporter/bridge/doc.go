// Package bridge gives log records in pdata to a LoggerProvider of the OpenTelemetry API. A program that
// exports telemetry of its own with the OpenTelemetry SDK can have what is traced go the same way.
//
// A LoggerProvider has one Resource, the program's, where pdata has one for each traced process. The
// attributes process.* of that become attributes of each record, unless the record has them itself; the
// others are left out, since they name the host and the service.
package bridge
