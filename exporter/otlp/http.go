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
	"go.opentelemetry.io/collector/config/configtls"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/extension/extensionmiddleware"
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
}

func (c *HTTPConfig) transport(set exporter.Settings, path string) (transport, error) {
	target, err := c.url(path)
	if err != nil {
		return nil, err
	}
	t := &httpTransport{
		config:      c.ClientConfig,
		telemetry:   set.TelemetrySettings,
		userAgent:   userAgent(set.BuildInfo),
		url:         target,
		contentType: contentProto,
	}
	if c.Encoding == EncodingJSON {
		t.contentType = contentJSON
	}
	return t, nil
}

// String is the URL without what may be secret in it: user, password and query.
func (t *httpTransport) String() string {
	return t.url.Scheme + "://" + t.url.Host + t.url.Path
}

func (t *httpTransport) tls() configtls.ClientConfig { return t.config.TLS }

func (t *httpTransport) connect(ctx context.Context, host component.Host) (connection, error) {
	c := &httpConnection{httpTransport: t}
	// confighttp returns a client that hides its connections, so that nobody could close them. The
	// last of its middlewares gets to see them.
	id := component.MustNewIDWithName("connspan", "connections")
	config := t.config
	config.Middlewares = append(slices.Clone(config.Middlewares), configmiddleware.Config{ID: id})
	extensions := make(map[component.ID]component.Component)
	maps.Copy(extensions, host.GetExtensions())
	extensions[id] = middleware{GetHTTPRoundTripperFunc: c.keepConnections}

	client, err := config.ToClient(ctx, extensions, t.telemetry)
	if err != nil {
		return nil, err
	}
	// confighttp adds the configured headers to every request, also to one that follows a redirect.
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c.client = client
	return c, nil
}

// middleware is an extension made of a function.
type middleware struct {
	component.StartFunc
	component.ShutdownFunc
	extensionmiddleware.GetHTTPRoundTripperFunc
}

type httpConnection struct {
	*httpTransport
	client      *http.Client
	connections *http.Transport // below client
}

func (c *httpConnection) keepConnections(context.Context) (extensionmiddleware.WrapHTTPRoundTripperFunc, error) {
	return func(_ context.Context, below http.RoundTripper) (http.RoundTripper, error) {
		c.connections, _ = below.(*http.Transport)
		return below, nil
	}, nil
}

func (c *httpConnection) close() error {
	if c.connections != nil {
		c.connections.CloseIdleConnections()
	}
	return nil
}

func (c *httpConnection) export(ctx context.Context, request request) (answer, error) {
	marshal := request.MarshalProto
	if c.contentType == contentJSON {
		marshal = request.MarshalJSON
	}
	body, err := marshal()
	if err != nil {
		return answer{}, consumererror.NewPermanent(fmt.Errorf("encoding: %w", err))
	}
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url.String(), bytes.NewReader(body))
	if err != nil {
		return answer{}, consumererror.NewPermanent(err)
	}
	post.Header.Set("Content-Type", c.contentType)
	post.Header.Set("User-Agent", c.userAgent)

	reply, err := c.client.Do(post)
	if err != nil {
		if wrapped, ok := errors.AsType[*url.Error](err); ok {
			err = wrapped.Err // without the URL, which may hold secrets
		}
		return answer{}, printableError{err}
	}
	defer func() { _ = reply.Body.Close() }()
	return readAnswer(reply, request.response())
}

// readAnswer takes the status code as the server's word: what a body that is broken, foreign or too
// long would have said changes nothing about it.
func readAnswer(reply *http.Response, decoded response) (answer, error) {
	body, err := io.ReadAll(io.LimitReader(reply.Body, maxBody))
	if reply.StatusCode/100 != 2 {
		return answer{}, responseError(reply, body)
	}
	if err != nil {
		return answer{message: fmt.Sprintf("reading the answer: %v", err)}, nil
	}
	return successAnswer(reply.Header.Get("Content-Type"), body, decoded), nil
}

func successAnswer(contentType string, body []byte, decoded response) answer {
	if len(body) == 0 {
		return answer{}
	}
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
	return decoded.answer()
}

// responseError tells errors to retry from permanent ones.
func responseError(reply *http.Response, body []byte) error {
	code := reply.StatusCode
	err := fmt.Errorf("HTTP status %d %s", code, http.StatusText(code))
	if message := errorMessage(reply.Header.Get("Content-Type"), body); message != "" {
		err = fmt.Errorf("%w: %s", err, printable(message))
	}
	switch code {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout,
		http.StatusUnauthorized, http.StatusForbidden: // an expired token must lose nothing
		return throttled(err, retryAfter(reply.Header))
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
