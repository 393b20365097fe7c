package version

import (
	"runtime/debug"
	"testing"
)

func TestFromBuild(t *testing.T) {
	stamped := []debug.BuildSetting{{Key: "vcs.revision", Value: "abc1234"}, {Key: "vcs.modified", Value: "false"}}
	dirty := []debug.BuildSetting{{Key: "vcs.revision", Value: "abc1234"}, {Key: "vcs.modified", Value: "true"}}
	tests := map[string]struct {
		build           *debug.BuildInfo
		version, commit string // as set by ldflags
		want            Info
	}{
		"a binary without build info is dev": {
			want: Info{Version: "dev", Commit: "unknown"},
		},
		"a module installed by version carries that version": {
			build: &debug.BuildInfo{GoVersion: "go1.26.0", Main: debug.Module{Version: "v1.2.3"}},
			want:  Info{Version: "v1.2.3", Commit: "unknown", Go: "go1.26.0"},
		},
		"a checkout is dev at its commit": {
			build: &debug.BuildInfo{Main: debug.Module{Version: "(devel)"}, Settings: stamped},
			want:  Info{Version: "dev", Commit: "abc1234"},
		},
		"uncommitted changes show": {
			build: &debug.BuildInfo{Main: debug.Module{Version: "(devel)"}, Settings: dirty},
			want:  Info{Version: "dev", Commit: "abc1234-dirty"},
		},
		"ldflags win": {
			build:   &debug.BuildInfo{Main: debug.Module{Version: "v0.0.0-2026"}, Settings: dirty},
			version: "1.0.0", commit: "fff",
			want: Info{Version: "1.0.0", Commit: "fff"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			version, commit = tt.version, tt.commit
			t.Cleanup(func() { version, commit = "", "" })
			if got := fromBuild(tt.build); got != tt.want {
				t.Errorf("fromBuild = %+v, want %+v", got, tt.want)
			}
		})
	}
}
