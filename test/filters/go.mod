// A module of its own: nothing but its test needs containerd's code.
module github.com/berthd/berth/test/filters

go 1.26.0

replace github.com/berthd/berth => ../..

require (
	github.com/berthd/berth v0.0.0
	github.com/containerd/containerd/v2 v2.1.4
)

require (
	github.com/containerd/errdefs v1.0.0 // indirect
	github.com/containerd/log v0.1.0 // indirect
	github.com/sirupsen/logrus v1.10.2 // indirect
	golang.org/x/sys v0.49.0 // indirect
)
