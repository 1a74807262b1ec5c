// A stargz-snapshotter for the end-to-end tests.
//
// Debian packages the library and its command line, neither the daemon nor all that the daemon's own package needs. This is a
// daemon around the same file system: it reads the daemon's configuration file, which is what `darter setup stargz` writes,
// asks the mirrors in it and then the registry, as the daemon does, and serves containerd's protocol for snapshotters. Like every
// release before 0.15 it sends no headers of the configuration.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/contrib/snapshotservice"
	"github.com/containerd/containerd/reference"
	"github.com/containerd/containerd/remotes/docker"
	"github.com/containerd/stargz-snapshotter/fs"
	"github.com/containerd/stargz-snapshotter/fs/config"
	"github.com/containerd/stargz-snapshotter/fs/source"
	"github.com/containerd/stargz-snapshotter/snapshot"
	"github.com/hashicorp/go-retryablehttp"
	"github.com/pelletier/go-toml"
	"google.golang.org/grpc"
)

// The daemon's own limit for one request.
const requestTimeout = 30 * time.Second

type settings struct {
	config.Config
	Resolver struct {
		Host map[string]struct {
			Mirrors []mirror `toml:"mirrors"`
		} `toml:"host"`
	} `toml:"resolver"`
}

type mirror struct {
	Host     string `toml:"host"`
	Insecure bool   `toml:"insecure"`
}

func main() {
	root := flag.String("root", "", "directory for what it keeps")
	socket := flag.String("socket", "", "unix socket to listen on")
	file := flag.String("config", "", "configuration file of containerd-stargz-grpc")
	flag.Parse()
	if err := serve(*root, *socket, *file); err != nil {
		fmt.Fprintln(os.Stderr, "stargz:", err)
		os.Exit(1)
	}
}

func serve(root, socket, file string) error {
	settings, err := load(file)
	if err != nil {
		return err
	}
	sources := source.FromDefaultLabels(settings.hosts)
	files, err := fs.NewFilesystem(filepath.Join(root, "layers"), settings.Config, fs.WithGetSources(sources))
	if err != nil {
		return fmt.Errorf("file system in %s: %w", root, err)
	}
	snapshotter, err := snapshot.NewSnapshotter(context.Background(), filepath.Join(root, "snapshots"), files)
	if err != nil {
		return fmt.Errorf("snapshots in %s: %w", root, err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(snapshotter))
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-ended
		server.Stop()
	}()
	if err := server.Serve(listener); err != nil {
		return err
	}
	return snapshotter.Close()
}

func load(file string) (*settings, error) {
	tree, err := toml.LoadFile(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", file, err)
	}
	var read settings
	if err := tree.Unmarshal(&read); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return &read, nil
}

// Where an image's layers are asked for: its registry's mirrors in the file's order, then the registry.
func (s *settings) hosts(image reference.Spec) ([]docker.RegistryHost, error) {
	registry := image.Hostname()
	places := append([]mirror(nil), s.Resolver.Host[registry].Mirrors...)
	var hosts []docker.RegistryHost
	for _, place := range append(places, mirror{Host: registry}) {
		patient := retryablehttp.NewClient()
		patient.Logger = nil
		client := patient.StandardClient()
		client.Timeout = requestTimeout
		scheme := "https"
		if local, _ := docker.MatchLocalhost(place.Host); local || place.Insecure {
			scheme = "http"
		}
		hosts = append(hosts, docker.RegistryHost{
			Client:       client,
			Authorizer:   docker.NewDockerAuthorizer(docker.WithAuthClient(client)),
			Host:         place.Host,
			Scheme:       scheme,
			Path:         "/v2",
			Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve,
		})
	}
	return hosts, nil
}
