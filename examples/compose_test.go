package examples_test

import (
	"bufio"
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
)

const composeFolder = "compose"

// service is what a test looks at in docker-compose.yaml.
type service struct {
	Image       string   `json:"image"`
	Build       *build   `json:"build"`
	Volumes     []string `json:"volumes"`
	Ports       []string `json:"ports"`
	User        string   `json:"user"`
	ReadOnly    bool     `json:"read_only"`
	CapDrop     []string `json:"cap_drop"`
	SecurityOpt []string `json:"security_opt"`
}

type build struct {
	Context    string `json:"context"`
	Dockerfile string `json:"dockerfile"`
}

func services(t *testing.T) map[string]service {
	t.Helper()
	var file struct {
		Services map[string]service `json:"services"`
	}
	if err := yaml.Unmarshal(read(t, composeFolder+"/docker-compose.yaml"), &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Services) == 0 {
		t.Fatal("docker-compose.yaml has no services")
	}
	return file.Services
}

// TestComposeFile checks what needs no Docker engine.
func TestComposeFile(t *testing.T) {
	t.Parallel()
	for name, s := range services(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			checkFiles(t, s)
			checkConfined(t, s)
		})
	}
}

// checkFiles checks that everything a service is made from is there.
func checkFiles(t *testing.T, s service) {
	t.Helper()
	for _, volume := range s.Volumes {
		source, _, _ := strings.Cut(volume, ":")
		if strings.HasPrefix(source, ".") {
			exists(t, composeFolder, source)
		}
	}
	if s.Build == nil {
		return
	}
	root := filepath.Join(composeFolder, s.Build.Context)
	dockerfile := string(read(t, filepath.Join(root, s.Build.Dockerfile)))
	for _, copied := range regexp.MustCompile(`(?m)^COPY ([^-].*) \S+$`).FindAllStringSubmatch(dockerfile, -1) {
		for source := range strings.FieldsSeq(copied[1]) {
			exists(t, root, source)
		}
	}
}

func exists(t *testing.T, path ...string) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(path...)); err != nil {
		t.Error(err)
	}
}

// checkConfined checks that a service can do no more than it has to, and that
// nobody reaches it from another machine.
func checkConfined(t *testing.T, s service) {
	t.Helper()
	if user, _, _ := strings.Cut(s.User, ":"); user == "" || user == "0" || user == "root" {
		t.Errorf("user is %q: it may be root", s.User)
	}
	if !s.ReadOnly {
		t.Error("read_only is missing")
	}
	if !slices.Contains(s.CapDrop, "ALL") {
		t.Error("cap_drop: [ALL] is missing")
	}
	if !slices.Contains(s.SecurityOpt, "no-new-privileges:true") {
		t.Error("no-new-privileges is missing")
	}
	for _, port := range s.Ports {
		if !strings.HasPrefix(port, "127.0.0.1:") {
			t.Errorf("port %s can be reached from other machines", port)
		}
	}
}

// TestComposeVersions checks that the example has the Envoy that is tested, and
// the Go that go.mod asks for.
func TestComposeVersions(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, file, pattern, want string }{
		{"envoy", "../Makefile", `(?m)^ENVOY_VERSION *:= *(\S+)$`, "image: envoyproxy/envoy:v%\n"},
		{"go", "../go.mod", `(?m)^go (\d+\.\d+)`, "FROM golang:% AS build\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			match := regexp.MustCompile(tt.pattern).FindSubmatch(read(t, tt.file))
			if match == nil {
				t.Fatalf("%s says no version", tt.file)
			}
			want := strings.Replace(tt.want, "%", string(match[1]), 1)
			example := string(read(t, composeFolder+"/docker-compose.yaml")) + string(read(t, composeFolder+"/Dockerfile"))
			if !strings.Contains(example, want) {
				t.Errorf("no %q in the example", want)
			}
		})
	}
}

// TestCompose runs the example with a Docker engine: the provider restarts again
// and again, and no request of the caller fails.
func TestCompose(t *testing.T) {
	if os.Getenv("REBEARER_COMPOSE") != "1" {
		t.Skip("REBEARER_COMPOSE=1 runs the example; it needs a Docker engine")
	}
	p := newProject(t)
	p.run(t, "up", "--build", "--detach")
	p.follow(t, "caller", 1, "caller: ")
	p.follow(t, "parts", 4, " restart ", "--tail", "0")

	if got := p.run(t, "exec", "-T", "rebearer", "rebearer", "tokens", "list"); !regexp.MustCompile(`(?m)^demo +backend +alive `).MatchString(got) {
		t.Errorf("tokens list shows no living token:\n%s", got)
	}
	checkPorts(t)

	p.run(t, "stop", "caller")
	summaries := regexp.MustCompile(`caller: (\d+) requests, (\d+) failed, (\d+) retried.*`).FindAllStringSubmatch(p.run(t, "logs", "caller"), -1)
	if len(summaries) == 0 {
		t.Fatal("the caller says nothing")
	}
	last := summaries[len(summaries)-1]
	t.Log(last[0])
	if failed, retried := number(t, last[2]), number(t, last[3]); failed != 0 || retried < 3 {
		t.Errorf("%d requests failed and %d were retried, want 0 and at least 3", failed, retried)
	}
}

// checkPorts asks at the published ports.
func checkPorts(t *testing.T) {
	t.Helper()
	secret := strings.TrimSpace(string(read(t, composeFolder+"/rebearer/secrets/admin")))
	for _, tt := range []struct {
		url, bearer string
		want        int
	}{
		{"http://127.0.0.1:10000/", "", http.StatusUnauthorized},
		{"http://127.0.0.1:9002/v1/credentials", "", http.StatusUnauthorized},
		{"http://127.0.0.1:9002/v1/credentials", secret, http.StatusOK},
		{"http://127.0.0.1:9003/readyz", "", http.StatusOK},
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, tt.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if tt.bearer != "" {
			request.Header.Set("Authorization", "Bearer "+tt.bearer)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Error(err)
			continue
		}
		_ = response.Body.Close()
		if response.StatusCode != tt.want {
			t.Errorf("%s (token: %t): got %d, want %d", tt.url, tt.bearer != "", response.StatusCode, tt.want)
		}
	}
}

func number(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// project is the example under a name of its own, so that one that runs
// already is left alone.
type project struct{ command []string }

// newProject finds Compose. The test's end takes down whatever is up then.
func newProject(t *testing.T) project {
	t.Helper()
	p := project{[]string{"docker", "compose"}}
	if exec.Command("docker", "compose", "version").Run() != nil {
		p.command = []string{"docker-compose"}
	}
	p.command = append(p.command, "--project-name", "rebearer-test")
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if t.Failed() {
			out, _ := p.cmd(ctx, "logs").CombinedOutput()
			t.Logf("%s", out)
		}
		if out, err := p.cmd(ctx, "down", "--volumes").CombinedOutput(); err != nil {
			t.Errorf("down: %v\n%s", err, out)
		}
	})
	return p
}

func (p project) cmd(ctx context.Context, args ...string) *exec.Cmd {
	args = append(slices.Clone(p.command), args...)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = composeFolder
	return cmd
}

// run returns what a command prints.
func (p project) run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := p.cmd(t.Context(), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("compose %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// follow reads a service's log until so many lines have held a text.
func (p project) follow(t *testing.T, name string, lines int, text string, flags ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := p.cmd(ctx, slices.Concat([]string{"logs", "--follow"}, flags, []string{name})...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	log := bufio.NewScanner(out)
	for lines > 0 && log.Scan() {
		if strings.Contains(log.Text(), text) {
			lines--
		}
	}
	cancel()
	_ = cmd.Wait() // it was cancelled
	if lines > 0 {
		t.Fatalf("the log of %s ended, or said too little within 2 minutes", name)
	}
}
