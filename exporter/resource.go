package exporter

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/google/uuid"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/connspan/connspan/internal/event"
	"github.com/connspan/connspan/internal/owner"
)

// attrUnit is what the Collector's systemd receiver calls it; the semantic conventions have no name.
const attrUnit = "systemd.unit.name"

const (
	attrServiceName      = string(semconv.ServiceNameKey)
	attrServiceNamespace = string(semconv.ServiceNamespaceKey)
	attrServiceInstance  = string(semconv.ServiceInstanceIDKey)
)

// resources describe the traced processes. Nothing but find looks at the host.
type resources struct {
	base       pcommon.Map       // what all processes share
	configured map[string]string // of the configuration, over all that is found
	services   []service
	command    bool // tell process.command_args
	// find says what is known of a process: never nil, and quick where it was asked before.
	find  func(owner.ID) *owner.Process
	known *owner.Processes // whom to introduce processes to
}

// newResources looks at this host. Where it cannot look at the processes, it says so and goes on.
func newResources(cfg ResourceConfig, logger *slog.Logger) (*resources, error) {
	base, err := newResource(cfg, logger)
	if err != nil {
		return nil, err
	}
	processes, err := owner.New(owner.Config{
		CommandLine: cfg.CommandLine || slices.ContainsFunc(cfg.Services, func(r ServiceRule) bool { return r.Match.Command != "" }),
		Redact:      cfg.Redact, Environment: cfg.Environment,
	})
	if err != nil {
		logger.Warn("of the traced processes no more is told than what the kernel says of those that open connections from now on; to tell more, run in the host's PID namespace", "error", err)
	}
	rs := describe(cfg, base, processes.Find)
	rs.known = processes
	return rs, nil
}

// introduce makes a process known by what the kernel says of it, which may be all that is left of it.
func (rs *resources) introduce(p *event.Process) {
	rs.known.Introduce(owner.Introduction{
		ID:        owner.ID{PID: p.PID, UID: p.UID, Started: p.Started, Comm: p.Comm},
		ParentPID: p.Parent, Executable: p.Executable, Groups: []string{p.Unified, p.Legacy},
	})
}

// describe makes resources of what newResource and a source of processes give.
func describe(cfg ResourceConfig, base pcommon.Map, find func(owner.ID) *owner.Process) *resources {
	rs := &resources{base: base, configured: cfg.Attributes, command: cfg.CommandLine, find: find}
	for _, rule := range cfg.Services {
		rs.services = append(rs.services, newService(rule))
	}
	return rs
}

// newResource gives the attributes that every traced process on this host shares. Of the
// environment's own attributes those that name a service are left out: they are this program's,
// not the traced one's.
func newResource(cfg ResourceConfig, logger *slog.Logger) (pcommon.Map, error) {
	found, err := resource.New(context.Background(), resource.WithHost(), resource.WithFromEnv())
	if errors.Is(err, resource.ErrPartialResource) {
		logger.Warn("a part of the Resource is left out; OTEL_RESOURCE_ATTRIBUTES must be key=value,key=value", "error", err)
	} else if err != nil {
		return pcommon.Map{}, fmt.Errorf("finding out about this host: %w", err)
	}
	m := pcommon.NewMap()
	for _, kv := range found.Attributes() {
		switch kv.Key {
		case semconv.ServiceNameKey, semconv.ServiceNamespaceKey, semconv.ServiceInstanceIDKey, semconv.ServiceVersionKey:
			continue
		}
		putAttribute(m, kv)
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Attributes)) {
		putText(m, name, cfg.Attributes[name])
	}
	return m, nil
}

func putAttribute(m pcommon.Map, kv attribute.KeyValue) {
	putText(m, string(kv.Key), kv.Value.String())
}

// putText puts what others have written.
func putText(m pcommon.Map, name, value string) {
	m.PutStr(event.Printable(name), event.Printable(value))
}

func ownerOf(e *event.Event) owner.ID {
	return owner.ID{PID: e.PID, UID: e.UID, Started: e.OwnerStarted, Comm: e.Comm}
}

// executable names what the process executes; where that is not known, by its first 15 octets.
func executable(o owner.ID, p *owner.Process) string {
	if p.Executable != "" {
		return event.Printable(path.Base(p.Executable))
	}
	return event.Comm(o.Comm).String()
}

// fill describes the process that owns a connection.
func (rs *resources) fill(m pcommon.Map, o owner.ID, p *owner.Process) {
	rs.base.CopyTo(m)
	if o == (owner.ID{}) {
		return
	}
	rs.putOwn(m, p)
	rs.putService(m, o, p)
	m.PutStr(attrServiceInstance, rs.instance(o))
	m.PutInt(attrPID, int64(o.PID))
	m.PutStr(attrExecutable, executable(o, p))
	putFound(m, attrPath, p.Executable)
	if p.ParentPID != 0 {
		m.PutInt(string(semconv.ProcessParentPIDKey), int64(p.ParentPID))
	}
	putFound(m, string(semconv.ProcessOwnerKey), p.User)
	if rs.command && len(p.Args) > 0 {
		args := m.PutEmptySlice(string(semconv.ProcessCommandArgsKey))
		for _, arg := range p.Args {
			args.AppendEmpty().SetStr(event.Printable(arg))
		}
	}
	putFound(m, string(semconv.ContainerIDKey), p.Group.ContainerID)
	putFound(m, string(semconv.ContainerNameKey), p.Group.ContainerName)
	putFound(m, string(semconv.ContainerRuntimeNameKey), p.Group.Runtime)
	putFound(m, string(semconv.K8SPodUIDKey), p.Group.PodUID)
	putFound(m, attrUnit, p.Group.Unit)
}

// putFound puts what the kernel says.
func putFound(m pcommon.Map, name, value string) {
	if value != "" {
		putText(m, name, value)
	}
}

// putOwn puts what the process says of itself, but not of the host, nor what is configured.
func (rs *resources) putOwn(m pcommon.Map, p *owner.Process) {
	for _, name := range slices.Sorted(maps.Keys(p.Attributes)) {
		if _, ok := rs.configured[name]; ok || isFound(name) {
			continue
		}
		putText(m, name, p.Attributes[name])
	}
}

// isFound: who can see it from outside knows it better than the process. telemetry.* tells of an SDK that
// has not made this telemetry, and the instance that an environment names is that of all the processes
// that have inherited it.
func isFound(name string) bool {
	for _, prefix := range []string{"host.", "process.", "telemetry.", attrServiceInstance} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// putService names the service: as a rule says, the configuration, the process itself, or else by what
// runs it.
func (rs *resources) putService(m pcommon.Map, o owner.ID, p *owner.Process) {
	name, namespace := rs.service(o, p)
	putText(m, attrServiceName, name)
	putFound(m, attrServiceNamespace, namespace)
}

// service names the service, and its namespace where a rule does.
func (rs *resources) service(o owner.ID, p *owner.Process) (name, namespace string) {
	for _, s := range rs.services {
		if s.matches(o, p) {
			return s.name, s.namespace
		}
	}
	if name, ok := rs.base.Get(attrServiceName); ok {
		return name.AsString(), ""
	}
	for _, name := range []string{p.Attributes[attrServiceName], unitService(p.Group.Unit), p.Group.ContainerName} {
		if name != "" {
			return name, ""
		}
	}
	if isKernel(p) {
		return "kernel", ""
	}
	return executable(o, p), ""
}

// isKernel: the kernel's own threads are the children of kthreadd, the second process of all, and execute
// nothing. Those that work for everybody have a name for each processor, which names no service.
func isKernel(p *owner.Process) bool {
	const kthreadd = 2
	return p.ParentPID == kthreadd && p.Executable == ""
}

// unitService is the service that a unit is: all instances of a template are one. A user's manager, and
// a command that was given to systemd-run, name nothing.
func unitService(unit string) string {
	name, ok := strings.CutSuffix(unit, ".service")
	if !ok || transient.MatchString(name) {
		return ""
	}
	name, _, _ = strings.Cut(name, "@")
	if name == "user" {
		return ""
	}
	return name
}

var transient = regexp.MustCompile(`^run-([pu][0-9]+(-i[0-9]+)?|r[0-9a-f]{32})$`)

// instance names the process among all on all hosts, so that two of one service are two.
func (rs *resources) instance(o owner.ID) string {
	var host string
	if id, ok := rs.base.Get(string(semconv.HostIDKey)); ok {
		host = id.AsString()
	} else if name, ok := rs.base.Get(string(semconv.HostNameKey)); ok {
		host = name.AsString()
	}
	b := append([]byte(host), 0)
	b = binary.BigEndian.AppendUint32(b, o.PID)
	b = binary.BigEndian.AppendUint64(b, o.Started)
	return uuid.NewSHA1(instances, b).String()
}

// instances is the namespace of the service.instance.id that semantic conventions set.
var instances = uuid.MustParse("4d63009a-8d0f-11ee-aad7-4c796ed8e320")

// service is a compiled ServiceRule.
type service struct {
	name, namespace string
	match           []condition
}

// condition holds where one of the texts that are taken from a process matches.
type condition struct {
	glob  *regexp.Regexp
	texts func(owner.ID, *owner.Process) []string
}

// executableTexts are for what users call an executable: its path, or its name.
func executableTexts(o owner.ID, p *owner.Process) []string {
	return []string{p.Executable, executable(o, p)}
}

// shortID is how much of a container's id runtimes show.
const shortID = 12

func containerTexts(_ owner.ID, p *owner.Process) []string {
	id := p.Group.ContainerID
	return []string{id, id[:min(len(id), shortID)], p.Group.ContainerName}
}

func newService(rule ServiceRule) service {
	s := service{name: rule.Name, namespace: rule.Namespace}
	for _, c := range []struct {
		glob  string
		texts func(owner.ID, *owner.Process) []string
	}{
		{rule.Match.Executable, executableTexts},
		{rule.Match.Container, containerTexts},
		{rule.Match.Unit, func(_ owner.ID, p *owner.Process) []string { return []string{p.Group.Unit} }},
		{rule.Match.Cgroup, func(_ owner.ID, p *owner.Process) []string { return []string{p.Group.Path} }},
		{rule.Match.Command, func(_ owner.ID, p *owner.Process) []string { return []string{strings.Join(p.Args, " ")} }},
	} {
		if c.glob != "" {
			s.match = append(s.match, condition{owner.Glob(c.glob), c.texts})
		}
	}
	return s
}

func (s service) matches(o owner.ID, p *owner.Process) bool {
	for _, c := range s.match {
		if !c.holds(o, p) {
			return false
		}
	}
	return true
}

func (c condition) holds(o owner.ID, p *owner.Process) bool {
	return slices.ContainsFunc(c.texts(o, p), func(text string) bool { return text != "" && c.glob.MatchString(text) })
}
