package api

import (
	"context"
	"net/http"

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

type organizationPath struct {
	Organization string `path:"organization" maxLength:"64" doc:"Its id or UUID." example:"org_k7xm4pqr2n5t"`
}

type oneOrganization struct{ Body organization }

type oneLimits struct{ Body limits }

type newOrganizationInput struct {
	Body struct {
		Name string `json:"name" minLength:"1" maxLength:"100" example:"Ada's Workspace"`
	} `nameHint:"NewOrganization"`
}

type organizationChange struct {
	Organization string `path:"organization" maxLength:"64" doc:"Its id or UUID." example:"org_k7xm4pqr2n5t"`
	Body         struct {
		Name     *string `json:"name,omitempty" minLength:"1" maxLength:"100" example:"Weather"`
		Disabled *bool   `json:"disabled,omitempty" doc:"Operators only." example:"true"`
	} `nameHint:"OrganizationChange"`
}

type limitsChange struct {
	Organization string `path:"organization" maxLength:"64" doc:"Its id or UUID." example:"org_k7xm4pqr2n5t"`
	Body         struct {
		MaxConnections      *int   `json:"max_connections,omitempty" minimum:"0" maximum:"2147483647" doc:"0, here and below: no limit within the server's own bounds." example:"100"`
		MaxMessageBytes     *int   `json:"max_message_bytes,omitempty" minimum:"0" maximum:"2147483647" example:"262144"`
		MaxPublishRate      *int   `json:"max_publish_rate,omitempty" minimum:"0" maximum:"2147483647" example:"50"`
		MaxMessageRate      *int   `json:"max_message_rate,omitempty" minimum:"0" maximum:"2147483647" example:"1000"`
		MaxMessagesPerMonth *int64 `json:"max_messages_per_month,omitempty" minimum:"0" maximum:"9007199254740991" example:"1000000"`
		MaxSubscriptions    *int   `json:"max_subscriptions,omitempty" minimum:"0" maximum:"2147483647" example:"100"`
		MaxSessions         *int   `json:"max_sessions,omitempty" minimum:"0" maximum:"2147483647" example:"1000"`
		MaxRetained         *int   `json:"max_retained,omitempty" minimum:"0" maximum:"2147483647" example:"10000"`
		MaxStorageBytes     *int64 `json:"max_storage_bytes,omitempty" minimum:"0" maximum:"9007199254740991" example:"1073741824"`
	} `nameHint:"LimitsChange"`
}

func (a *API) registerOrganizations() {
	const tag, one = "organizations", "/v2/organizations/{organization}"
	route(a, operation{
		id: "list-organizations", method: http.MethodGet, path: "/v2/organizations", tag: tag, summary: "List organizations",
		text: "A key's own, a member's, or for operators all.", scope: access.OrganizationRead, server: true,
	}, a.listOrganizations)
	route(a, operation{
		id: "create-organization", method: http.MethodPost, path: "/v2/organizations", tag: tag, summary: "Make an organization",
		text: "For operators. People make theirs by signing up.", scope: access.OrganizationWrite, server: true, ours: true, status: http.StatusCreated,
	}, a.createOrganization)
	route(a, operation{
		id: "get-own-organization", method: http.MethodGet, path: "/v2/organization", tag: tag, summary: "Get the organization that is acted in",
		scope: access.OrganizationRead,
	}, func(ctx context.Context, _ *nothing) (*oneOrganization, error) { return oneOf(a.own(ctx).Info(ctx)) })
	route(a, operation{
		id: "get-organization", method: http.MethodGet, path: one, tag: tag, summary: "Get an organization", scope: access.OrganizationRead,
	}, func(ctx context.Context, in *organizationPath) (*oneOrganization, error) {
		return oneOf(a.named(ctx, in.Organization).Info(ctx))
	})
	route(a, operation{
		id: "update-organization", method: http.MethodPatch, path: one, tag: tag, summary: "Change an organization",
		text: "Fields that are left out stay.", scope: access.OrganizationWrite,
	}, func(ctx context.Context, in *organizationChange) (*oneOrganization, error) {
		u := control.OrganizationUpdate{Name: in.Body.Name, Disabled: in.Body.Disabled}
		return oneOf(a.named(ctx, in.Organization).Update(ctx, u))
	})
	route(a, operation{
		id: "delete-organization", method: http.MethodDelete, path: one, tag: tag, summary: "Delete an organization",
		text: "With everything it has: users, rules, keys, tokens, sessions, messages. For its owner, and operators.", scope: access.OrganizationWrite,
	}, func(ctx context.Context, in *organizationPath) (*nothing, error) {
		return nil, a.named(ctx, in.Organization).Delete(ctx)
	})
	route(a, operation{
		id: "get-limits", method: http.MethodGet, path: one + "/limits", tag: tag, summary: "Get the limits of an organization", scope: access.OrganizationRead,
	}, func(ctx context.Context, in *organizationPath) (*oneLimits, error) {
		return limitsOf(a.named(ctx, in.Organization).Info(ctx))
	})
	route(a, operation{
		id: "update-limits", method: http.MethodPatch, path: one + "/limits", tag: tag, summary: "Change the limits of an organization",
		text: "For operators. Fields that are left out stay. They are in force on live connections at once.", scope: access.OrganizationWrite, ours: true,
	}, func(ctx context.Context, in *limitsChange) (*oneLimits, error) {
		return limitsOf(a.named(ctx, in.Organization).SetLimits(ctx, control.LimitsUpdate(in.Body)))
	})
}

func oneOf(o control.OrganizationInfo, err error) (*oneOrganization, error) {
	return &oneOrganization{Body: showOrganization(o)}, err
}

func limitsOf(o control.OrganizationInfo, err error) (*oneLimits, error) {
	return &oneLimits{Body: showLimits(o.Limits)}, err
}

func (a *API) listOrganizations(ctx context.Context, in *Page) (*listed[organization], error) {
	after, err := in.after("organizations")
	if err != nil {
		return nil, err
	}
	all, err := a.config.Store.Organizations(ctx, callerOf(ctx).actor, after, in.fetch())
	if err != nil {
		return nil, err
	}
	return pageOf(in, "organizations", all, func(o control.OrganizationInfo) string { return o.ID }, showOrganization), nil
}

func (a *API) createOrganization(ctx context.Context, in *newOrganizationInput) (*oneOrganization, error) {
	return oneOf(a.config.Store.CreateOrganization(ctx, callerOf(ctx).actor, in.Body.Name))
}
