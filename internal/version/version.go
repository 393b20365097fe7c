// Package version tells which build of kpush this is.
package version

import (
	"runtime/debug"
	"sync"
)

// Set by release builds:
//
//	go build -ldflags "-X github.com/kpush/kpush/internal/version.version=1.2.3 -X github.com/kpush/kpush/internal/version.commit=abc1234"
//
// Other builds are told apart by what the Go toolchain stamped into the binary.
var (
	version string
	commit  string
)

// Info names a build.
type Info struct {
	Version string // "1.2.3", a Go pseudo-version, or "dev"
	Commit  string // version control revision; "-dirty" marks uncommitted changes; "unknown" without one
	Go      string // toolchain, such as "go1.26.0"
}

// development is the version of a build that nothing and nobody named.
const development = "dev"

// Get returns the build's names. It is cheap and may be called from any goroutine.
var Get = sync.OnceValue(func() Info {
	build, _ := debug.ReadBuildInfo()
	return fromBuild(build)
})

// UserAgent is what the gateway calls itself in the requests it sends.
func (i Info) UserAgent() string { return "kpush/" + i.Version }

func fromBuild(build *debug.BuildInfo) Info {
	info := Info{Version: version, Commit: commit}
	if build != nil {
		info.Go = build.GoVersion
		if info.Version == "" && build.Main.Version != "(devel)" {
			info.Version = build.Main.Version
		}
		if info.Commit == "" {
			info.Commit = revision(build.Settings)
		}
	}
	if info.Version == "" {
		info.Version = development
	}
	if info.Commit == "" {
		info.Commit = "unknown"
	}
	return info
}

// revision reads the commit out of the settings that go build stamps.
func revision(settings []debug.BuildSetting) string {
	var rev, dirty string
	for _, s := range settings {
		switch s.Key {
		case "vcs.revision":
			rev = s.Value
		case "vcs.modified":
			if s.Value == "true" {
				dirty = "-dirty"
			}
		}
	}
	if rev == "" {
		return ""
	}
	return rev + dirty
}
