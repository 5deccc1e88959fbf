package api

import (
	"cloudsignal/internal/access"
	"cloudsignal/internal/control"
)

type organization struct {
	ID        string `json:"id" example:"org_k7xm4pqr2n5t"`
	UUID      string `json:"uuid" format:"uuid" doc:"Is accepted wherever the id is." example:"1f0e6a52-7c1d-4f6e-9a3b-2d8c5e4f7a10"`
	Name      string `json:"name" example:"Ada's Workspace"`
	Disabled  bool   `json:"disabled" doc:"Nobody logs in to it." example:"false"`
	CreatedAt string `json:"created_at" format:"date-time" example:"2026-11-03T09:30:00.000Z"`
	Limits    limits `json:"limits"`
}

// limits are access.Limits with the names that they have here.
type limits struct {
	MaxConnections      int   `json:"max_connections" doc:"At the same time. 0, here and below: no limit within the server's own bounds." example:"100"`
	MaxMessageBytes     int   `json:"max_message_bytes" doc:"Of a PUBLISH packet." example:"262144"`
	MaxPublishRate      int   `json:"max_publish_rate" doc:"PUBLISH a second of one connection." example:"50"`
	MaxMessageRate      int   `json:"max_message_rate" doc:"PUBLISH a second of the organization." example:"1000"`
	MaxMessagesPerMonth int64 `json:"max_messages_per_month" doc:"PUBLISH accepted in a calendar month, UTC." example:"1000000"`
	MaxSubscriptions    int   `json:"max_subscriptions" doc:"Of one connection." example:"100"`
	MaxSessions         int   `json:"max_sessions" doc:"That outlive their connections." example:"1000"`
	MaxRetained         int   `json:"max_retained" doc:"Retained messages." example:"10000"`
	MaxStorageBytes     int64 `json:"max_storage_bytes" doc:"Kept on disk for sessions and as retained messages." example:"1073741824"`
}

func showOrganization(o control.OrganizationInfo) organization {
	return organization{
		ID: o.ID, UUID: o.UUID, Name: o.Name, Disabled: o.Disabled, CreatedAt: stamp(o.CreatedAt), Limits: showLimits(o.Limits),
	}
}

func showLimits(l access.Limits) limits { return limits(l) }
