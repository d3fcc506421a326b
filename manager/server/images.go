package server

import (
	"github.com/berthd/berth/manager/images"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// Images answers ImagesService.
type Images struct {
	berthv1.UnimplementedImagesServiceServer
	images *images.Service
}

// NewImages makes the service on what keeps the images.
func NewImages(service *images.Service) *Images { return &Images{images: service} }
