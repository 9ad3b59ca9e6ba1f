package otlp

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/config/configtls"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

const secret = "nobody but the server may read this"

// TestTLS has the server or the exporter come with certificates that the other one refuses, and then
// with good ones.
func TestTLS(t *testing.T) {
	type parties struct {
		server *tlsServer
		files  configtls.ClientConfig
		ca     *authority // that both trust
	}
	for _, tt := range []struct {
		name string
		set  func(t *testing.T, p *parties)
		want string // in the reason
		heal func(t *testing.T, p *parties)
	}{
		{
			name: "server's certificate expired", want: "certificate has expired or is not yet valid",
			set:  func(t *testing.T, p *parties) { p.server.present(p.ca.issue(t, expired)) },
			heal: func(t *testing.T, p *parties) { p.server.present(p.ca.issue(t, nil)) },
		},
		{
			name: "server's certificate for another name", want: "certificate is valid for 127.0.0.9, not 127.0.0.1",
			set: func(t *testing.T, p *parties) {
				p.server.present(p.ca.issue(t, func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 9)} }))
			},
			heal: func(t *testing.T, p *parties) { p.server.present(p.ca.issue(t, nil)) },
		},
		{
			name: "server's CA unknown", want: "certificate signed by unknown authority",
			set:  func(t *testing.T, p *parties) { newAuthority(t).write(t, p.files.CAFile) },
			heal: func(t *testing.T, p *parties) { p.ca.write(t, p.files.CAFile) },
		},
		{
			name: "new CA file broken", want: "; new certificates not used: ",
			set: func(t *testing.T, p *parties) {
				newAuthority(t).write(t, p.files.CAFile)
				time.AfterFunc(50*time.Millisecond, func() { write(t, p.files.CAFile, []byte("half a file")) })
			},
			heal: func(t *testing.T, p *parties) { p.ca.write(t, p.files.CAFile) },
		},
		{
			name: "client's certificate missing", want: "tls: certificate required",
			set: func(_ *testing.T, p *parties) {
				p.server.demand(p.ca)
				p.files.CertFile, p.files.KeyFile = "", ""
			},
			heal: func(_ *testing.T, p *parties) { p.server.demand(nil) },
		},
		{
			name: "client's certificate expired", want: "tls: expired certificate",
			set: func(t *testing.T, p *parties) {
				p.server.demand(p.ca)
				writePair(t, p.files, p.ca.issue(t, expired))
			},
			heal: func(t *testing.T, p *parties) { writePair(t, p.files, p.ca.issue(t, nil)) },
		},
		{
			name: "client's CA unknown", want: "tls: unknown certificate authority",
			set: func(t *testing.T, p *parties) {
				p.server.demand(p.ca)
				writePair(t, p.files, newAuthority(t).issue(t, nil))
			},
			heal: func(t *testing.T, p *parties) { writePair(t, p.files, p.ca.issue(t, nil)) },
		},
	} {
		for _, m := range eachTransport {
			t.Run(tt.name+"/"+m.name, func(t *testing.T) {
				t.Parallel()
				ca := newAuthority(t)
				p := &parties{ca: ca, files: ca.clientFiles(t), server: &tlsServer{}}
				p.server.present(ca.issue(t, nil))
				tt.set(t, p)
				s, in := m.overTLS(t, p.server, p.files)
				var seen witness
				if err := s.Start(t.Context(), &seen); err != nil {
					t.Fatal(err)
				}
				defer func() { _ = s.Shutdown(context.WithoutCancel(t.Context())) }()

				mustOffer(t, s, secret)
				eventually(t, func() bool { return strings.Contains(seen.reason(), tt.want) || s.Stats().Sent > 0 })
				if s.Stats().Sent > 0 {
					t.Fatalf("sent, though %s", tt.name)
				}
				tt.heal(t, p)
				in.wait(t, secret)
				wantStats(t, s.Stats, Stats{Offered: 1, Sent: 1})
				eventually(t, func() bool { return seen.last() == componentstatus.StatusOK })
				if p.server.saw([]byte(secret)) {
					t.Error("went over the wire in plain text")
				}
			})
		}
	}
}

// TestTLSReload has files change while all is well: once the interval is over, a new connection is used.
func TestTLSReload(t *testing.T) {
	for _, m := range eachTransport {
		t.Run(m.name, func(t *testing.T) {
			ca, server := newAuthority(t), &tlsServer{}
			server.present(ca.issue(t, nil))
			server.demand(ca)
			files := ca.clientFiles(t)
			files.ReloadInterval = time.Millisecond
			s, in := m.overTLS(t, server, files)
			start(t, s)
			for i, body := range []string{"a", "b"} {
				mustOffer(t, s, body)
				in.waitCalls(t, i+1)
				time.Sleep(2 * files.ReloadInterval)
			}
			if n := server.accepted.Load(); n != 1 {
				t.Errorf("%d connections before the files changed, want 1", n)
			}
			writePair(t, files, ca.issue(t, nil))
			mustOffer(t, s, "c")
			in.wait(t, "a", "b", "c")
			if n := server.accepted.Load(); n != 2 {
				t.Errorf("%d connections after the files changed, want 2", n)
			}
		})
	}
}

// TestTLSReloadOff: with a reload_interval of 0 the files are read once.
func TestTLSReloadOff(t *testing.T) {
	for _, m := range eachTransport {
		t.Run(m.name, func(t *testing.T) {
			ca, server := newAuthority(t), &tlsServer{}
			server.present(ca.issue(t, nil))
			files := newAuthority(t).clientFiles(t)
			files.ReloadInterval = 0
			s, _ := m.overTLS(t, server, files)
			start(t, s)
			mustOffer(t, s, secret)
			eventually(t, func() bool { return server.accepted.Load() > 0 })
			ca.write(t, files.CAFile)
			before := server.accepted.Load()
			eventually(t, func() bool { return server.accepted.Load() >= before+2 })
			if s.Stats().Sent > 0 {
				t.Error("sent, though the new CA must not be known")
			}
		})
	}
}

func TestMissingCA(t *testing.T) {
	for _, m := range eachTransport {
		t.Run(m.name, func(t *testing.T) {
			server := &tlsServer{}
			server.present(newAuthority(t).issue(t, nil))
			s, _ := m.overTLS(t, server, configtls.ClientConfig{Config: configtls.Config{CAFile: "missing.pem"}})
			if err := s.Start(t.Context(), host{}); err == nil || !strings.Contains(err.Error(), "missing.pem") {
				t.Errorf("Start: got %v, want an error that names the file", err)
			}
			if err := s.Shutdown(t.Context()); err != nil {
				t.Errorf("Shutdown: %v", err)
			}
		})
	}
}

// witness is a host that remembers what is reported.
type witness struct {
	host
	mu     sync.Mutex
	events []*componentstatus.Event
}

func (w *witness) Report(event *componentstatus.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, event)
}

func (w *witness) last() componentstatus.Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.events) == 0 {
		return componentstatus.StatusNone
	}
	return w.events[len(w.events)-1].Status()
}

// reason is why the export fails, as last reported, or empty.
func (w *witness) reason() string {
	if w.last() != componentstatus.StatusRecoverableError {
		return ""
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.events[len(w.events)-1].Err().Error()
}

// tlsServer is how an OTLP server listens, and a listener that records what comes in.
type tlsServer struct {
	certificate atomic.Pointer[tls.Certificate]
	clientCA    atomic.Pointer[authority]
	accepted    atomic.Int64

	mu       sync.Mutex
	received bytes.Buffer
}

// present has the server use another certificate from now on.
func (s *tlsServer) present(certificate tls.Certificate) { s.certificate.Store(&certificate) }

// demand has clients need a certificate of ca from now on, or none.
func (s *tlsServer) demand(ca *authority) { s.clientCA.Store(ca) }

func (s *tlsServer) config() *tls.Config {
	return &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		config := &tls.Config{Certificates: []tls.Certificate{*s.certificate.Load()}, NextProtos: []string{"h2", "http/1.1"}}
		if ca := s.clientCA.Load(); ca != nil {
			config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
			config.ClientCAs.AddCert(ca.cert)
		}
		return config, nil
	}}
}

func (s *tlsServer) saw(text []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Contains(s.received.Bytes(), text)
}

type recordedListener struct {
	net.Listener
	server *tlsServer
}

func (l recordedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.server.accepted.Add(1)
	}
	return recordedConn{conn, l.server}, err
}

type recordedConn struct {
	net.Conn
	server *tlsServer
}

func (c recordedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	c.server.received.Write(p[:n])
	return n, err
}

// overTLS returns an exporter, not started yet, and its server. Nothing is compressed, so that it
// could be recognized.
func (m maker) overTLS(t *testing.T, server *tlsServer, files configtls.ClientConfig) (subject, *inbox) {
	t.Helper()
	record := func(l net.Listener) net.Listener { return recordedListener{l, server} }
	if m.grpc != nil {
		s := &grpcServer{
			inbox: &inbox{}, addr: "127.0.0.1:0", wrap: record,
			options: []grpc.ServerOption{grpc.Creds(credentials.NewTLS(server.config()))},
		}
		s.serve(t)
		cfg := grpcConfig("https://" + s.addr)
		cfg.ClientConfig.TLS, cfg.ClientConfig.Compression = files, "none"
		cfg.ClientConfig.TLS.Insecure = true // https:// wins
		return m.grpc(t, settings(), cfg), s.inbox
	}
	s := newHTTPServer(nil)
	s.EnableHTTP2, s.TLS, s.Listener = true, server.config(), record(s.Listener)
	s.Config.ErrorLog = zap.NewStdLog(zap.NewNop())
	s.StartTLS()
	t.Cleanup(s.Close)
	cfg := httpConfig(s.URL)
	cfg.ClientConfig.TLS, cfg.ClientConfig.Compression = files, "none"
	return m.http(t, settings(), cfg), s.inbox
}

// authority is a CA made for one test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	ca := &authority{key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "test CA"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &ca.key.PublicKey, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	if ca.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return ca
}

// write makes file the certificate of ca.
func (ca *authority) write(t *testing.T, file string) {
	t.Helper()
	write(t, file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw}))
}

// issue returns a certificate for 127.0.0.1, as a server or a client, which change may alter.
func (ca *authority) issue(t *testing.T, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2),
		Subject:      pkix.Name{CommonName: "test"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func expired(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }

// clientFiles has everything that a client of a server of ca needs.
func (ca *authority) clientFiles(t *testing.T) configtls.ClientConfig {
	t.Helper()
	dir := t.TempDir()
	files := NewDefaultGRPCConfig().ClientConfig.TLS
	files.CAFile = filepath.Join(dir, "ca.pem")
	files.CertFile, files.KeyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	ca.write(t, files.CAFile)
	writePair(t, files, ca.issue(t, nil))
	return files
}

// writePair replaces the client's certificate and key.
func writePair(t *testing.T, files configtls.ClientConfig, certificate tls.Certificate) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	write(t, files.CertFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]}))
	write(t, files.KeyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
}

func write(t *testing.T, file string, content []byte) {
	t.Helper()
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Error(err)
	}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
