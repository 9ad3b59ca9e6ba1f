package otlp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/configmiddleware"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/extension/extensionmiddleware"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
)

const (
	contentProto = "application/x-protobuf"
	contentJSON  = "application/json"

	// maxBody bounds how much of an answer's body is read, in bytes.
	maxBody = 64 << 10
)

type httpTransport struct {
	config      confighttp.ClientConfig
	telemetry   component.TelemetrySettings
	userAgent   string
	url         *url.URL
	contentType string

	client      *http.Client
	connections *http.Transport // below client
}

func newHTTPTransport(set exporter.Settings, cfg *HTTPConfig) (*httpTransport, error) {
	target, err := cfg.logsURL()
	if err != nil {
		return nil, err
	}
	t := &httpTransport{
		config:      cfg.ClientConfig,
		telemetry:   set.TelemetrySettings,
		userAgent:   userAgent(set.BuildInfo),
		url:         target,
		contentType: contentProto,
	}
	if cfg.Encoding == EncodingJSON {
		t.contentType = contentJSON
	}
	return t, nil
}

// String is the URL without what may be secret in it: user, password and query.
func (t *httpTransport) String() string {
	return t.url.Scheme + "://" + t.url.Host + t.url.Path
}

func (t *httpTransport) start(ctx context.Context, host component.Host) error {
	// confighttp returns a client that hides its connections, so that nobody could close them. The
	// last of its middlewares gets to see them.
	id := component.MustNewIDWithName("connspan", "connections")
	config := t.config
	config.Middlewares = append(slices.Clone(config.Middlewares), configmiddleware.Config{ID: id})
	extensions := make(map[component.ID]component.Component)
	maps.Copy(extensions, host.GetExtensions())
	extensions[id] = middleware{GetHTTPRoundTripperFunc: t.keepConnections}

	client, err := config.ToClient(ctx, extensions, t.telemetry)
	if err != nil {
		return err
	}
	// confighttp adds the configured headers to every request, also to one that follows a redirect.
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	t.client = client
	return nil
}

// middleware is an extension made of a function.
type middleware struct {
	component.StartFunc
	component.ShutdownFunc
	extensionmiddleware.GetHTTPRoundTripperFunc
}

func (t *httpTransport) keepConnections(context.Context) (extensionmiddleware.WrapHTTPRoundTripperFunc, error) {
	return func(_ context.Context, below http.RoundTripper) (http.RoundTripper, error) {
		t.connections, _ = below.(*http.Transport)
		return below, nil
	}, nil
}

func (t *httpTransport) disconnect() error {
	if t.connections != nil {
		t.connections.CloseIdleConnections()
	}
	return nil
}

func (t *httpTransport) export(ctx context.Context, request plogotlp.ExportRequest) (answer, error) {
	body, err := t.marshal(request)
	if err != nil {
		return answer{}, consumererror.NewPermanent(fmt.Errorf("encoding: %w", err))
	}
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, t.url.String(), bytes.NewReader(body))
	if err != nil {
		return answer{}, consumererror.NewPermanent(err)
	}
	post.Header.Set("Content-Type", t.contentType)
	post.Header.Set("User-Agent", t.userAgent)

	response, err := t.client.Do(post)
	if err != nil {
		if wrapped, ok := errors.AsType[*url.Error](err); ok {
			err = wrapped.Err // without the URL, which may hold secrets
		}
		return answer{}, printableError{err}
	}
	defer func() { _ = response.Body.Close() }()
	return readAnswer(response)
}

func (t *httpTransport) marshal(request plogotlp.ExportRequest) ([]byte, error) {
	if t.contentType == contentJSON {
		return request.MarshalJSON()
	}
	return request.MarshalProto()
}

// readAnswer takes the status code as the server's word: what a body that is broken, foreign or too
// long would have said changes nothing about it.
func readAnswer(response *http.Response) (answer, error) {
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
	if response.StatusCode/100 != 2 {
		return answer{}, responseError(response, body)
	}
	if err != nil {
		return answer{message: fmt.Sprintf("reading the answer: %v", err)}, nil
	}
	return successAnswer(response.Header.Get("Content-Type"), body), nil
}

func successAnswer(contentType string, body []byte) answer {
	if len(body) == 0 {
		return answer{}
	}
	decoded := plogotlp.NewExportResponse()
	var err error
	switch mediaType(contentType) {
	case contentProto:
		err = decoded.UnmarshalProto(body)
	case contentJSON:
		err = decoded.UnmarshalJSON(body)
	default:
		err = fmt.Errorf("content type %q", contentType)
	}
	if err != nil {
		return answer{message: fmt.Sprintf("answer is not OTLP: %v", err)}
	}
	partial := decoded.PartialSuccess()
	return answer{rejected: partial.RejectedLogRecords(), message: partial.ErrorMessage()}
}

// responseError tells errors to retry from permanent ones.
func responseError(response *http.Response, body []byte) error {
	code := response.StatusCode
	err := fmt.Errorf("HTTP status %d %s", code, http.StatusText(code))
	if message := errorMessage(response.Header.Get("Content-Type"), body); message != "" {
		err = fmt.Errorf("%w: %s", err, printable(message))
	}
	switch code {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout,
		http.StatusUnauthorized, http.StatusForbidden: // an expired token must lose nothing
		return throttled(err, retryAfter(response.Header))
	}
	return consumererror.NewPermanent(err)
}

// errorMessage returns the message of the google.rpc.Status that OTLP has errors explained with, or
// plain text, or nothing.
func errorMessage(contentType string, body []byte) string {
	switch mediaType(contentType) {
	case contentProto:
		var s spb.Status
		if proto.Unmarshal(body, &s) == nil {
			return s.GetMessage()
		}
	case contentJSON:
		var s struct{ Message string }
		if json.Unmarshal(body, &s) == nil {
			return s.Message
		}
	case "text/plain":
		return strings.TrimSpace(string(body))
	}
	return ""
}

func mediaType(contentType string) string {
	t, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return ""
	}
	return t
}

// retryAfter returns the delay that a Retry-After header asks for: a number of seconds or a date.
func retryAfter(header http.Header) time.Duration {
	value := header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(value, 10, 32); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if date, err := http.ParseTime(value); err == nil {
		return time.Until(date)
	}
	return 0
}
