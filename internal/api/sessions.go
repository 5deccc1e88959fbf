package api

import (
	"context"
	"net/http"

	"cloudsignal/internal/access"
	"cloudsignal/internal/broker"
	"cloudsignal/internal/fault"
)

// session is what is known of a client's session, connected or stored.
type session struct {
	ClientID       string         `json:"client_id" example:"sensor-1"`
	User           string         `json:"user" doc:"The user's name without its organization." example:"agent-01"`
	Connected      bool           `json:"connected" example:"true"`
	Address        string         `json:"address,omitempty" doc:"That the connection comes from." example:"192.0.2.7:49152"`
	Protocol       string         `json:"protocol,omitempty" enum:"3.1,3.1.1,5.0" doc:"MQTT's version." example:"5.0"`
	Transport      string         `json:"transport,omitempty" enum:"mqtt,mqtts,ws,wss" example:"mqtts"`
	ConnectedAt    string         `json:"connected_at,omitempty" format:"date-time" example:"2026-11-03T09:30:00.000Z"`
	DisconnectedAt string         `json:"disconnected_at,omitempty" format:"date-time" example:"2026-11-03T09:45:00.000Z"`
	ExpiresAt      string         `json:"expires_at,omitempty" format:"date-time" doc:"When a stored session ends." example:"2026-11-03T10:45:00.000Z"`
	Expiry         uint32         `json:"expiry" doc:"Seconds that the session outlives its connection." example:"3600"`
	Clean          bool           `json:"clean" doc:"The session ends with its connection." example:"false"`
	KeepAlive      int            `json:"keep_alive,omitempty" doc:"Seconds." example:"60"`
	Queued         int64          `json:"queued" doc:"Messages that wait for it." example:"0"`
	QueuedBytes    int64          `json:"queued_bytes" example:"0"`
	InFlight       int            `json:"in_flight" doc:"Messages that were sent to it and are not acknowledged." example:"0"`
	TokenExpiresAt string         `json:"token_expires_at,omitempty" format:"date-time" doc:"Of a connection with a temporary token." example:"2026-11-03T10:30:00.000Z"`
	Subscriptions  []subscription `json:"subscriptions,omitempty" nullable:"false" doc:"They are shown of one session, not in lists."`
}

type subscription struct {
	Filter string `json:"filter" example:"agents/agent-01/inbox"`
	QoS    int    `json:"qos" minimum:"0" maximum:"2" example:"1"`
}

func showSession(s broker.SessionInfo) session {
	out := session{
		ClientID: s.ClientID, User: s.User, Connected: s.Connected, Address: s.Address, Protocol: s.Protocol, Transport: s.Transport,
		ConnectedAt: stamp(s.ConnectedAt), DisconnectedAt: stamp(s.DisconnectedAt), ExpiresAt: stamp(s.ExpiresAt), Expiry: s.Expiry,
		Clean: s.Clean, KeepAlive: s.KeepAlive, Queued: s.Queued, QueuedBytes: s.QueuedBytes, InFlight: s.InFlight,
		TokenExpiresAt: stamp(s.TokenExpires),
	}
	for _, sub := range s.Subscriptions {
		out.Subscriptions = append(out.Subscriptions, subscription{sub.Filter, int(sub.QoS)})
	}
	return out
}

type sessionListInput struct {
	Page
	User      string `query:"user" maxLength:"128" doc:"Of this user alone, with or without its organization." example:"agent-01"`
	Connected string `query:"connected" enum:"true,false" doc:"Connected ones, or those that are not; both unless given."`
}

type sessionPath struct {
	ClientID string `path:"client_id" maxLength:"65535" doc:"With percent-encoding: %2F for a slash. What is /, . or .. alone has no path: see /v2/session." example:"sensor-1"`
}

// sessionQuery names any session: some client identifiers are no segment of a path for a server, or for what is before it.
type sessionQuery struct {
	ClientID string `query:"client_id" required:"true" minLength:"1" maxLength:"65535" doc:"Any client identifier." example:"sensor-1"`
}

type oneSession struct{ Body session }

type disconnected struct {
	Body struct {
		ClientID     string `json:"client_id" example:"sensor-1"`
		Disconnected bool   `json:"disconnected" doc:"There was a connection, which has ended." example:"true"`
	} `nameHint:"Disconnected"`
}

type terminatePath struct {
	Name string `path:"name" maxLength:"128" doc:"The user's name, with or without its organization." example:"agent-01"`
}

type terminated struct {
	Body struct {
		Username string `json:"username" example:"agent-01@org_k7xm4pqr2n5t"`
		Sessions int    `json:"sessions_terminated" doc:"Connections that have ended." example:"1"`
	} `nameHint:"Terminated"`
}

func (a *API) registerSessions() {
	route(a, operation{
		id: "list-sessions", method: http.MethodGet, path: "/v2/sessions", tag: "sessions", summary: "List sessions",
		text: "Connected and stored ones, in the order of client identifiers.", scope: access.SessionsRead,
	}, a.listSessions)
	get := operation{
		id: "get-session", method: http.MethodGet, path: "/v2/sessions/{client_id}", tag: "sessions", summary: "Get a session with its subscriptions",
		scope: access.SessionsRead,
	}
	route(a, get, func(ctx context.Context, in *sessionPath) (*oneSession, error) { return a.getSession(ctx, in.ClientID) })
	end := operation{
		id: "disconnect-session", method: http.MethodPost, path: "/v2/sessions/{client_id}/disconnect", tag: "sessions",
		summary: "End the connection of a session", text: "The client is told Administrative action (0x98). A stored session stays.",
		scope: access.SessionsWrite,
	}
	route(a, end, func(ctx context.Context, in *sessionPath) (*disconnected, error) {
		return a.disconnect(ctx, in.ClientID)
	})
	remove := operation{
		id: "delete-session", method: http.MethodDelete, path: "/v2/sessions/{client_id}", tag: "sessions",
		summary: "End a session with all that waits for it", scope: access.SessionsWrite,
	}
	route(a, remove, func(ctx context.Context, in *sessionPath) (*nothing, error) {
		return nil, a.deleteSession(ctx, in.ClientID)
	})

	const named = "The query names the session, by any client identifier: /, . and .. too."
	get.id, get.path, get.text = "get-session-by-query", "/v2/session", named
	route(a, get, func(ctx context.Context, in *sessionQuery) (*oneSession, error) {
		return a.getSession(ctx, in.ClientID)
	})
	end.id, end.path, end.text = "disconnect-session-by-query", "/v2/session/disconnect", named+" "+end.text
	route(a, end, func(ctx context.Context, in *sessionQuery) (*disconnected, error) {
		return a.disconnect(ctx, in.ClientID)
	})
	remove.id, remove.path, remove.text = "delete-session-by-query", "/v2/session", named
	route(a, remove, func(ctx context.Context, in *sessionQuery) (*nothing, error) {
		return nil, a.deleteSession(ctx, in.ClientID)
	})
	route(a, operation{
		id: "terminate-user", method: http.MethodPost, path: "/v2/utilities/users/{name}/terminate", tag: "sessions",
		summary: "End all connections of a user", text: "Stored sessions stay, and the user may connect again.", scope: access.SessionsWrite,
	}, a.terminate)
}

func (a *API) listSessions(ctx context.Context, in *sessionListInput) (*listed[session], error) {
	after, err := in.after("sessions")
	if err != nil {
		return nil, err
	}
	number, err := a.number(ctx)
	if err != nil {
		return nil, err
	}
	q := broker.SessionQuery{After: after, Limit: in.fetch()}
	if in.Connected != "" {
		connected := in.Connected == "true"
		q.Connected = &connected
	}
	var all []broker.SessionInfo
	if user, ok := ownName(ctx, in.User); ok {
		q.User = user
		if all, err = a.config.Live.Sessions(number, q); err != nil {
			return nil, err
		}
	}
	return pageOf(&in.Page, "sessions", all, func(s broker.SessionInfo) string { return s.ClientID }, showSession), nil
}

func (a *API) session(ctx context.Context, clientID string) (uint64, broker.SessionInfo, error) {
	number, err := a.number(ctx)
	if err != nil {
		return 0, broker.SessionInfo{}, err
	}
	s, ok, err := a.config.Live.Session(number, clientID)
	if err == nil && !ok {
		err = noSession()
	}
	return number, s, err
}

func noSession() error {
	return fault.New(fault.NotFound, "there is no session with this client identifier")
}

// end ends a session's connection, and with forget the session. The audit has it before it is done: nothing is done without.
func (a *API) end(ctx context.Context, action, clientID string, forget bool) (bool, error) {
	number, s, err := a.session(ctx, clientID)
	if err != nil {
		return false, err
	}
	before := map[string]any{"user": s.User, "connected": s.Connected, "address": s.Address}
	if err := a.own(ctx).Note(ctx, access.SessionsWrite, action, clientID, before, nil); err != nil {
		return false, err
	}
	found, err := a.config.Live.Disconnect(ctx, number, clientID, forget)
	return found && s.Connected, err
}

func (a *API) getSession(ctx context.Context, clientID string) (*oneSession, error) {
	_, s, err := a.session(ctx, clientID)
	if err != nil {
		return nil, err
	}
	return &oneSession{showSession(s)}, nil
}

func (a *API) disconnect(ctx context.Context, clientID string) (*disconnected, error) {
	done, err := a.end(ctx, "session.disconnect", clientID, false)
	if err != nil {
		return nil, err
	}
	out := new(disconnected)
	out.Body.ClientID, out.Body.Disconnected = clientID, done
	return out, nil
}

func (a *API) deleteSession(ctx context.Context, clientID string) error {
	_, err := a.end(ctx, "session.delete", clientID, true)
	return err
}

func (a *API) terminate(ctx context.Context, in *terminatePath) (*terminated, error) {
	number, err := a.number(ctx)
	if err != nil {
		return nil, err
	}
	user, own := ownName(ctx, in.Name)
	if !own || !a.config.Directory.Has(number, user) {
		return nil, fault.New(fault.NotFound, "there is no user %q", in.Name)
	}
	if err := a.own(ctx).Note(ctx, access.SessionsWrite, "user.terminate", user, nil, nil); err != nil {
		return nil, err
	}
	n, err := a.config.Live.Terminate(ctx, number, user)
	if err != nil {
		return nil, err
	}
	out := new(terminated)
	out.Body.Username, out.Body.Sessions = user+"@"+callerOf(ctx).actor.Organization, n
	return out, nil
}
