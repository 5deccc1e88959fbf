package api

import (
	"context"
	"net/http"

	"cloudsignal/internal/access"
)

type usageInput struct {
	Month string `query:"month" pattern:"^[0-9]{4}-(0[1-9]|1[0-2])$" doc:"UTC; the current one if it is left out." example:"2026-11"`
}

type usage struct {
	Body struct {
		Month      string   `json:"month" doc:"UTC." example:"2026-11"`
		Messages   int64    `json:"messages" doc:"PUBLISH accepted." example:"12345"`
		Deliveries int64    `json:"deliveries" doc:"PUBLISH sent." example:"23456"`
		BytesIn    int64    `json:"bytes_in" doc:"Of topics and payloads accepted." example:"1234567"`
		BytesOut   int64    `json:"bytes_out" doc:"Of topics and payloads sent." example:"2345678"`
		Refused    int64    `json:"refused" doc:"Messages, filters and log-ins beyond a limit or against the rules." example:"7"`
		Now        usageNow `json:"now"`
		Limits     limits   `json:"limits"`
	} `nameHint:"Usage"`
}

// usageNow is what the organization takes at the moment.
type usageNow struct {
	Connections   int   `json:"connections" example:"12"`
	Sessions      int   `json:"sessions" doc:"That outlive their connections." example:"10"`
	Subscriptions int   `json:"subscriptions" example:"40"`
	Retained      int   `json:"retained" example:"200"`
	StorageBytes  int64 `json:"storage_bytes" example:"1048576"`
}

func (a *API) registerUsage() {
	route(a, operation{
		id: "get-usage", method: http.MethodGet, path: "/v2/usage", tag: "usage", summary: "What the organization uses",
		text: "Totals of a month, some seconds old but for the messages of the current one; and what is in use now.", scope: access.UsageRead,
	}, a.usage)
}

func (a *API) usage(ctx context.Context, in *usageInput) (*usage, error) {
	o := a.own(ctx)
	current := a.config.Now().UTC().Format("2006-01")
	month := in.Month
	if month == "" {
		month = current
	}
	totals, err := o.Usage(ctx, month)
	if err != nil {
		return nil, err
	}
	out := new(usage)
	b := &out.Body
	b.Month, b.Messages, b.Deliveries = month, totals.Messages, totals.Deliveries
	b.BytesIn, b.BytesOut, b.Refused = totals.BytesIn, totals.BytesOut, totals.Refused
	record, err := a.record(ctx)
	if err != nil {
		return nil, err
	}
	b.Limits = showLimits(record.Limits)
	now := a.config.Live.Usage(record.Number)
	b.Now = usageNow{
		Connections: now.Connections, Sessions: now.Sessions, Subscriptions: now.Subscriptions, Retained: now.Retained, StorageBytes: now.StorageBytes,
	}
	if now.Month == month {
		b.Messages = max(b.Messages, now.Messages) // the broker's count is the newer one
	}
	return out, nil
}
