package otlp

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/config/configcompression"
	"go.opentelemetry.io/collector/config/configopaque"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
)

func TestHTTPDelivers(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(cfg *HTTPConfig, url string)
		want   map[string]string // header
	}{
		{
			name:   "defaults",
			change: func(*HTTPConfig, string) {},
			want: map[string]string{
				"Path": "/v1/logs", "Content-Type": contentProto, "Content-Encoding": "gzip", "User-Agent": "connspan/1.2.3",
			},
		},
		{
			name: "json, uncompressed",
			change: func(cfg *HTTPConfig, _ string) {
				cfg.Encoding = EncodingJSON
				cfg.ClientConfig.Compression = "none"
			},
			want: map[string]string{"Path": "/v1/logs", "Content-Type": contentJSON, "Content-Encoding": ""},
		},
		{
			name:   "zstd",
			change: func(cfg *HTTPConfig, _ string) { cfg.ClientConfig.Compression = configcompression.TypeZstd },
			want:   map[string]string{"Content-Encoding": "zstd"},
		},
		{
			name:   "snappy",
			change: func(cfg *HTTPConfig, _ string) { cfg.ClientConfig.Compression = configcompression.TypeSnappy },
			want:   map[string]string{"Content-Encoding": "snappy"},
		},
		{
			name: "headers",
			change: func(cfg *HTTPConfig, _ string) {
				cfg.ClientConfig.Headers.Set("Authorization", configopaque.String("Bearer token"))
			},
			want: map[string]string{"Authorization": "Bearer token"},
		},
		{
			name:   "endpoint with path and query",
			change: func(cfg *HTTPConfig, url string) { cfg.ClientConfig.Endpoint = url + "/otlp/?tenant=1" },
			want:   map[string]string{"Path": "/otlp/v1/logs?tenant=1"},
		},
		{
			name: "logs_endpoint",
			change: func(cfg *HTTPConfig, url string) {
				cfg.ClientConfig.Endpoint = ""
				cfg.LogsEndpoint = url + "/elsewhere"
			},
			want: map[string]string{"Path": "/elsewhere"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := serveHTTP(t, nil)
			cfg := httpConfig(s.URL)
			tt.change(cfg, s.URL)
			l := startHTTP(t, cfg)
			consumeLogs(t, l, "a", "b")
			s.wait(t, "a", "b")
			wantStats(t, l.Stats, Stats{Offered: 2, Sent: 2})

			got := make(map[string]string)
			for key := range tt.want {
				got[key] = s.all()[0].header.Get(key)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("header (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRetryAfter(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"":                              0,
		"0":                             0,
		"120":                           2 * time.Minute,
		"-5":                            0,
		"99999999999999999999":          0,
		"Wed, 21 Oct 2015 07:28:00 GMT": 0,
	} {
		if got := retryAfter(http.Header{"Retry-After": {value}}); max(got, 0) != want {
			t.Errorf("%q: got %v, want %v", value, got, want)
		}
	}
}

func TestHTTPDrops(t *testing.T) {
	statusProto, err := proto.Marshal(&spb.Status{Message: "bad\x00request"})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name              string
		code              int
		contentType, body string
		want              string
	}{
		{name: "400 proto", code: 400, contentType: contentProto, body: string(statusProto), want: "HTTP status 400 Bad Request: bad request"},
		{
			name: "400 JSON", code: 400, contentType: "application/json; charset=utf-8", body: `{"code":3,"message":"bad\nrequest","details":[{"@type":"x"}]}`,
			want: "HTTP status 400 Bad Request: bad request",
		},
		{name: "404 text", code: 404, contentType: "text/plain", body: "404 page\x1b[0m not found\n", want: "HTTP status 404 Not Found: 404 page [0m not found"},
		{name: "413 HTML", code: 413, contentType: "text/html", body: "<html>", want: "HTTP status 413 Request Entity Too Large"},
		{name: "500 broken proto", code: 500, contentType: contentProto, body: "\xff", want: "HTTP status 500 Internal Server Error"},
		{name: "501 empty", code: 501, want: "HTTP status 501 Not Implemented"},
		{
			name: "400 too long", code: 400, contentType: "text/plain", body: strings.Repeat("x", maxBody+1),
			want: "HTTP status 400 Bad Request: " + strings.Repeat("x", maxText) + "...",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := serveHTTP(t, func(_ int, w http.ResponseWriter) bool {
				w.Header().Set("Content-Type", tt.contentType)
				w.WriteHeader(tt.code)
				_, _ = w.Write([]byte(tt.body))
				return false
			})
			set, logs := observed()
			l := start(t, mustHTTP(t, set, httpConfig(s.URL)))
			consumeLogs(t, l, "a", "b")
			s.waitCalls(t, 1)
			wantStats(t, l.Stats, Stats{Offered: 2, Dropped: 2})

			eventually(t, func() bool { return logs.FilterMessage("Exporting failed. Dropping data.").Len() == 1 })
			got := logs.FilterMessage("Exporting failed. Dropping data.").All()[0].ContextMap()["error"]
			want := "not retryable error: exporting 2 log records to " + s.URL + "/v1/logs: Permanent error: " + tt.want
			if got != want {
				t.Errorf("error:\n got %q\nwant %q", got, want)
			}
		})
	}
}

// TestHTTPRedirect: the configured headers must not go where a redirect points, and a POST must not
// turn into a GET that succeeds.
func TestHTTPRedirect(t *testing.T) {
	elsewhere := serveHTTP(t, nil)
	for _, code := range []int{http.StatusMovedPermanently, http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			s := serveHTTP(t, func(_ int, w http.ResponseWriter) bool {
				w.Header().Set("Location", elsewhere.URL+"/v1/logs")
				w.WriteHeader(code)
				return false
			})
			l := startHTTP(t, httpConfig(s.URL))
			consumeLogs(t, l, "a")
			s.waitCalls(t, 1)
			wantStats(t, l.Stats, Stats{Offered: 1, Dropped: 1})
			if got := elsewhere.all(); len(got) != 0 {
				t.Errorf("%d requests followed the redirect", len(got))
			}
		})
	}
}

// TestHTTPAnswers: a 2xx is the server's word that it took the request, whatever its body says or
// fails to say.
func TestHTTPAnswers(t *testing.T) {
	for _, tt := range []struct {
		name              string
		contentType, body string
		wantMessage       string
	}{
		{name: "empty"},
		{name: "JSON", contentType: contentJSON, body: `{"partialSuccess":{}}`},
		{name: "HTML", contentType: "text/html", body: "<html>", wantMessage: `answer is not OTLP: content type "text/html"`},
		{name: "broken proto", contentType: contentProto, body: "\xff", wantMessage: "answer is not OTLP: unexpected EOF"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := serveHTTP(t, func(_ int, w http.ResponseWriter) bool {
				w.Header().Set("Content-Type", tt.contentType)
				_, _ = w.Write([]byte(tt.body))
				return true
			})
			set, logs := observed()
			l := start(t, mustHTTP(t, set, httpConfig(s.URL)))
			consumeLogs(t, l, "a")
			s.wait(t, "a")
			wantStats(t, l.Stats, Stats{Offered: 1, Sent: 1})

			var got string
			if warnings := logs.FilterMessage(reservations); warnings.Len() > 0 {
				got = warnings.All()[0].ContextMap()["message"].(string)
			}
			if got != tt.wantMessage {
				t.Errorf("message: got %q, want %q", got, tt.wantMessage)
			}
		})
	}
}

// TestHTTPEndlessAnswer ends only if the exporter stops reading.
func TestHTTPEndlessAnswer(t *testing.T) {
	for code, want := range map[int]Stats{
		http.StatusOK:         {Offered: 1, Sent: 1},
		http.StatusBadRequest: {Offered: 1, Dropped: 1},
	} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			s := serveHTTP(t, func(_ int, w http.ResponseWriter) bool {
				w.Header().Set("Content-Type", contentProto)
				w.WriteHeader(code)
				for chunk := make([]byte, maxBody); ; {
					if _, err := w.Write(chunk); err != nil {
						return code == http.StatusOK
					}
				}
			})
			l := startHTTP(t, httpConfig(s.URL))
			consumeLogs(t, l, "a")
			s.waitCalls(t, 1)
			wantStats(t, l.Stats, want)
		})
	}
}

func TestHTTPServerComesLater(t *testing.T) {
	addr := freeAddr(t)
	set, logs := observed()
	cfg := httpConfig("http://user:secret@" + addr + "?key=secret")
	l := start(t, mustHTTP(t, set, cfg))
	consumeLogs(t, l, "a")
	eventually(t, func() bool { return logs.FilterMessageSnippet("Will retry").Len() > 0 })
	want := "exporting 1 log records to http://" + addr + "/v1/logs: dial tcp " + addr + ": connect: connection refused"
	if got := logs.FilterMessageSnippet("Will retry").All()[0].ContextMap()["error"]; got != want {
		t.Errorf("error:\n got %q\nwant %q", got, want)
	}

	s := &httpServer{inbox: &inbox{}}
	s.serveAt(t, addr)
	s.wait(t, "a")
}

// TestHTTPProxy goes through a proxy, and only through it.
func TestHTTPProxy(t *testing.T) {
	s := serveHTTP(t, nil)
	var proxied atomic.Int64
	proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		if r.In.URL.Host == s.Listener.Addr().String() { // the whole URL, as only a proxy is sent it
			proxied.Add(1)
		}
		r.Out.Header.Set("Via", "1.1 proxy")
	}})
	t.Cleanup(proxy.Close)
	cfg := httpConfig(s.URL)
	cfg.ClientConfig.ProxyURL = proxy.URL
	l := startHTTP(t, cfg)
	consumeLogs(t, l, "a", "b")
	s.wait(t, "a", "b")
	wantStats(t, l.Stats, Stats{Offered: 2, Sent: 2})
	if via := s.all()[0].header.Get("Via"); proxied.Load() != 1 || via != "1.1 proxy" {
		t.Errorf("%d requests through the proxy, via %q, want 1", proxied.Load(), via)
	}
}

// TestHTTPShutdownDisconnects: no connection outlives the exporter, though the server would keep it.
func TestHTTPShutdownDisconnects(t *testing.T) {
	for _, compression := range []configcompression.Type{"none", configcompression.TypeGzip} {
		t.Run(string(compression), func(t *testing.T) {
			closed := make(chan struct{})
			s := newHTTPServer(nil)
			s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
				if state == http.StateClosed {
					close(closed)
				}
			}
			s.Start()
			t.Cleanup(s.Close)
			cfg := httpConfig(s.URL)
			cfg.ClientConfig.Compression = compression
			l := startHTTP(t, cfg)
			consumeLogs(t, l, "a")
			s.wait(t, "a")
			if err := l.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			<-closed
		})
	}
}
