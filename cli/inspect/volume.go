package inspect

import berthv1 "github.com/berthd/berth/proto/berth/v1"

// Volume is docker's document of a volume.
type Volume struct {
	CreatedAt  string
	Driver     string
	Labels     map[string]string
	Mountpoint string
	Name       string
	Options    map[string]string
	Scope      string
}

// NewVolume returns the document of a volume.
func NewVolume(volume *berthv1.Volume) Volume {
	return Volume{
		CreatedAt: stamp(volume.GetCreatedAt()), Driver: volume.GetDriver(), Labels: volume.GetLabels(), Mountpoint: volume.GetMountpoint(),
		Name: volume.GetName(), Options: volume.GetOptions(), Scope: "local",
	}
}
