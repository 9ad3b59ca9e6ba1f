package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// An apt is a private view of the Debian archive: lists and downloads of its own, nothing installed,
// the machine's own apt left as it is. Only the address of the mirror is the machine's.
type apt struct {
	dir   string
	names []string // of packages that begin with linux-
}

// listsAge is how old the lists of packages may be. A kernel that has been superseded vanishes from
// the mirror, so that old lists name what cannot be had any more.
const listsAge = 7 * 24 * time.Hour

// suites are those that have kernels, and the one with a QEMU for bookworm.
var suites = []struct{ archive, name, architectures string }{
	{"debian", "bullseye", "amd64"},
	{"debian-security", "bullseye-security", "amd64"},
	{"debian", "bookworm", "amd64"},
	{"debian-security", "bookworm-security", "amd64"},
	{"debian", "bookworm-backports", "amd64"},
	{"debian", "trixie", "amd64"},
	{"debian-security", "trixie-security", "amd64"},
	{"debian", "trixie-backports", "amd64,arm64"},
	{"debian", "sid", "amd64"},
}

const configuration = `Dir::Etc::sourcelist "%[1]s/sources.list";
Dir::Etc::sourceparts "%[1]s/none";
Dir::Etc::preferences "%[1]s/none";
Dir::Etc::preferencesparts "%[1]s/none";
Dir::State::lists "%[1]s/lists";
Dir::Cache "%[1]s/cache";
APT::Architectures { "amd64"; "arm64"; };
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::Retries "3";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
`

// openApt prepares dir and fetches the lists, where there are none or they are old. Old ones do where no
// others can be had.
func openApt(ctx context.Context, dir string) (*apt, error) {
	a := &apt{dir: dir}
	for _, sub := range []string{"lists/partial", "cache/archives/partial", "none"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(a.config(), fmt.Appendf(nil, configuration, dir), 0o644); err != nil {
		return nil, err
	}
	if err := a.update(ctx); err != nil {
		return nil, err
	}
	out, err := a.output(ctx, dir, "apt-cache", "pkgnames", "linux-")
	a.names = strings.Fields(out)
	return a, err
}

func (a *apt) config() string { return filepath.Join(a.dir, "apt.conf") }

// output runs one of apt's programs, with this configuration, in dir.
func (a *apt) output(ctx context.Context, dir, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "APT_CONFIG="+a.config())
	return output(cmd)
}

// output gives what a program prints. Its error has what the program says about it.
func output(cmd *exec.Cmd) (string, error) {
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
		}
		return "", fmt.Errorf("running %s %s: %w", filepath.Base(cmd.Path), strings.Join(cmd.Args[1:], " "), err)
	}
	return string(out), nil
}

func (a *apt) update(ctx context.Context) error {
	mirrors, err := mirrors(ctx)
	if err != nil {
		return err
	}
	var sources strings.Builder
	for _, s := range suites {
		fmt.Fprintf(&sources, "deb [arch=%s signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n", s.architectures, mirrors[s.archive], s.name)
	}
	list, stamp := filepath.Join(a.dir, "sources.list"), filepath.Join(a.dir, "updated")
	before, _ := os.ReadFile(list)
	known := string(before) == sources.String() // of these mirrors
	info, statErr := os.Stat(stamp)
	if statErr == nil && known && time.Since(info.ModTime()) < listsAge {
		return nil
	}
	if !known {
		_ = os.Remove(stamp)
	}
	if err := os.WriteFile(list, []byte(sources.String()), 0o600); err != nil {
		return err
	}
	if _, err := a.output(ctx, a.dir, "apt-get", "-qq", "update"); err != nil {
		err = fmt.Errorf("asking the Debian mirror %s which kernels there are: %w", mirrors["debian"], err)
		if statErr == nil && known {
			fmt.Fprintf(os.Stderr, "vm: %v\nvm: going on with the kernels that were known on %s\n", err, info.ModTime().Format(time.DateOnly))
			return nil
		}
		return err
	}
	return os.WriteFile(stamp, nil, 0o644)
}

// mirrors gives the addresses, by archive, that this machine's own apt uses.
func mirrors(ctx context.Context) (map[string]string, error) {
	out, err := output(exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages"))
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	for _, site := range strings.Fields(out) {
		site = strings.TrimSuffix(site, "/")
		found[filepath.Base(site)] = site
	}
	debian := found["debian"]
	if debian == "" {
		return nil, errors.New("finding a Debian mirror: apt's configuration has none")
	}
	if found["debian-security"] == "" {
		found["debian-security"] = debian + "-security"
	}
	return found, nil
}

// download unpacks a package into dir. Nothing of it is run.
func (a *apt) download(ctx context.Context, dir, name string) error {
	deb, err := os.MkdirTemp(a.dir, "download-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(deb) }()
	if _, err := a.output(ctx, deb, "apt-get", "-qq", "download", name); err != nil {
		return fmt.Errorf("downloading %s from the Debian mirror: %w", name, err)
	}
	files, err := filepath.Glob(filepath.Join(deb, "*.deb"))
	if err != nil || len(files) != 1 {
		return fmt.Errorf("downloading %s: %d files, want one", name, len(files))
	}
	_, err = output(exec.CommandContext(ctx, "dpkg", "-x", files[0], dir))
	return err
}

// A kernel is one that guests can boot.
type kernel struct {
	line    string // such as 6.12
	release string // such as 6.12.94+deb13-cloud-amd64
	arch    *architecture
	image   string
	modules string // a directory: those that guests load, unpacked, in the order of their names
}

func (k kernel) String() string {
	if k.arch.native() {
		return k.line
	}
	return k.line + " " + k.arch.name
}

var cloudImage = regexp.MustCompile(`^linux-image-(([0-9]+\.[0-9]+)\.[0-9].*-cloud-([a-z0-9]+))$`)

// releases gives those of the cloud flavour that the lists name, by line, the newest of each first;
// and the lines, the oldest first.
func (a *apt) releases(arch *architecture) (map[string][]string, []string) {
	byLine := map[string][]string{}
	var lines []string
	for _, name := range a.names {
		m := cloudImage.FindStringSubmatch(name)
		if m == nil || m[3] != arch.name {
			continue
		}
		if byLine[m[2]] == nil {
			lines = append(lines, m[2])
		}
		byLine[m[2]] = append(byLine[m[2]], m[1])
	}
	slices.SortFunc(lines, compareVersions)
	for _, releases := range byLine {
		slices.SortFunc(releases, func(a, b string) int { return compareVersions(b, a) })
	}
	return byLine, lines
}

var digits = regexp.MustCompile(`[0-9]+|[^0-9]+`)

// compareVersions compares numbers as such, and what is between them as text.
func compareVersions(a, b string) int {
	return slices.CompareFunc(digits.FindAllString(a, -1), digits.FindAllString(b, -1), func(a, b string) int {
		m, errA := strconv.Atoi(a)
		n, errB := strconv.Atoi(b)
		if errA == nil && errB == nil {
			return m - n
		}
		return strings.Compare(a, b)
	})
}

// kernels gives, of each line, the newest that can be had. "newest" and "all" stand for lines; another
// architecture than this machine's follows behind a colon.
func (a *apt) kernels(ctx context.Context, wanted []string) ([]kernel, error) {
	var found []kernel
	for _, w := range wanted {
		line, name, _ := strings.Cut(w, ":")
		arch, err := architectureOf(name)
		if err != nil {
			return nil, err
		}
		byLine, lines := a.releases(arch)
		if len(lines) == 0 {
			return nil, fmt.Errorf("looking for kernels: the mirror has none for %s of the cloud flavour", arch.name)
		}
		chosen := []string{line}
		switch line {
		case "newest":
			chosen = lines[len(lines)-1:]
		case "all":
			chosen = lines
		}
		for _, line := range chosen {
			k, err := a.kernel(ctx, line, arch, byLine[line])
			if err != nil {
				return nil, err
			}
			found = append(found, k)
		}
	}
	return found, nil
}

func (a *apt) kernel(ctx context.Context, line string, arch *architecture, releases []string) (kernel, error) {
	err := fmt.Errorf("looking for kernels: the mirror has no %s for %s of the cloud flavour", line, arch.name)
	for _, release := range releases {
		dir := filepath.Join(a.dir, "kernels", release)
		k := kernel{line: line, release: release, arch: arch, image: filepath.Join(dir, "vmlinuz"), modules: filepath.Join(dir, "modules")}
		if _, statErr := os.Stat(k.modules); statErr == nil {
			return k, nil
		}
		if err = a.fetch(ctx, k); err == nil {
			return k, nil
		}
	}
	return kernel{}, err
}

// fetch downloads image and modules; the modules, whose presence counts, at last. Since 6.19 they are in
// packages of their own.
func (a *apt) fetch(ctx context.Context, k kernel) error {
	dir, err := os.MkdirTemp(a.dir, "unpack-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	for _, kind := range []string{"linux-binary-", "linux-modules-", "linux-image-"} {
		if !slices.Contains(a.names, kind+k.release) {
			continue
		}
		if err := a.download(ctx, dir, kind+k.release+":"+k.arch.name); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Dir(k.image), 0o755); err != nil {
		return err
	}
	chosen, err := unpackModules(ctx, dir)
	if err != nil {
		return err
	}
	image, err := findImage(dir)
	if err != nil {
		return err
	}
	if err := os.Rename(image, k.image); err != nil {
		return err
	}
	return os.Rename(chosen, k.modules)
}

func findImage(dir string) (path string, err error) {
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if ok, _ := filepath.Match("vmlinuz*", d.Name()); ok && d.Type().IsRegular() {
			path = p
		}
		return err
	})
	if err == nil && path == "" {
		err = errors.New("unpacking a kernel: its packages have no vmlinuz*")
	}
	return path, err
}
