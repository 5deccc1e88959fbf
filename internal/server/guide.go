package server

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"text/template"

	"cloudsignal/internal/control"
)

// guideText is what a newcomer can paste into another terminal.
var guideText = template.Must(template.New("guide").Parse(`
CloudSignal is ready.{{range .Listeners}}
  {{.}}{{end}}
{{if .Agent.Username}}{{with .MQTTS}}
Subscribe and publish with the mosquitto clients:

  mosquitto_sub -h {{.Name}} -p {{.Port}}{{$.CAFlag}} -u {{$.Dashboard.Username}} -P {{$.Dashboard.Password}} -t 'agents/#' -q 1 -v

  mosquitto_pub -h {{.Name}} -p {{.Port}}{{$.CAFlag}} -u {{$.Agent.Username}} -P {{$.Agent.Password}} -t agents/agent-01/status -q 1 -m online
{{end}}{{with .WSS}}
From Node with mqtt.js over WSS (npm install mqtt):

  {{$.NodeCA}}node -e "const c=require('mqtt').connect('wss://{{.Host}}:{{.Port}}/',{protocolVersion:5,username:'{{$.Agent.Username}}',password:'{{$.Agent.Password}}'});c.on('connect',()=>c.publish('agents/agent-01/status','hello from node',{qos:1},()=>c.end()));c.on('error',e=>{console.error(e.message);c.end(true)})"
{{end}}
A back end with full access: user server@{{.Organization}}, password {{.SecretKey}}
{{with .HTTPS}}
Another user, by the API and by the command line (its documentation: https://{{.Host}}:{{.Port}}/openapi.yaml):

  curl{{$.CurlCA}} -H 'Authorization: Bearer {{$.SecretKey}}' -H 'Content-Type: application/json' -d '{"name":"sensor-1"}' https://{{.Host}}:{{.Port}}/v2/users

  bin/cloudsignal user create sensor-2 --api https://{{.Host}}:{{.Port}}{{$.OwnCA}} --credentials {{$.Credentials}}
{{end}}
All of these are in {{.Credentials}}.
{{else}}
The first credentials are not here any more ({{.Data}}/bootstrap.json was removed).
{{end}}{{if .CA}}
The certificate is of a development authority, {{.CA}}. To trust it:
  system    sudo cp {{.CA}} /usr/local/share/ca-certificates/cloudsignal-dev.crt && sudo update-ca-certificates
  Chromium  mkdir -p $HOME/.pki/nssdb && certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n cloudsignal-dev -i {{.CA}}    (Debian: apt install libnss3-tools)
  Node      export NODE_EXTRA_CA_CERTS={{.CA}}
{{end}}{{with .HTTPS}}
Chat in the browser: https://{{.Host}}:{{.Port}}/try
{{end}}`))

// endpoint is where a listener is reached: Name for a command line, Host for a URL.
type endpoint struct{ Name, Host, Port string }

// guide prints what to paste, with the credentials of the first start. It is for a person who asked for it, not for a log.
func (s *Server) guide(out io.Writer) error {
	data := struct {
		Listeners                                   []string
		MQTTS, WSS, HTTPS                           *endpoint
		Agent, Dashboard                            control.BootstrapUser
		Organization, SecretKey, CA, CAFlag, NodeCA string
		CurlCA, OwnCA                               string
		Credentials, Data                           string
	}{Data: s.cfg.Data, CA: quoteShell(s.ca), Credentials: quoteShell(s.Credentials())}
	for _, setting := range settings[4:] {
		if a, ok := s.addresses[setting.name]; ok {
			data.Listeners = append(data.Listeners, fmt.Sprintf("%-8s %s", setting.name, a))
		}
	}
	data.MQTTS, data.WSS, data.HTTPS = s.endpoint("mqtts"), s.endpoint("wss"), s.endpoint("https")
	data.CAFlag = " --tls-use-os-certs"
	if s.ca != "" {
		data.CAFlag, data.NodeCA = " --cafile "+data.CA, "NODE_EXTRA_CA_CERTS="+data.CA+" "
		data.CurlCA, data.OwnCA = " --cacert "+data.CA, " --ca "+data.CA
	}
	if file := s.Credentials(); file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		var first control.Bootstrap
		if err := json.Unmarshal(b, &first); err != nil || first.Organization == "" {
			return fmt.Errorf("%s is damaged; remove it, the server does not need it", file)
		}
		data.Organization, data.SecretKey = first.Organization, first.SecretKey
		for _, u := range first.Users {
			switch name, _, _ := strings.Cut(u.Username, "@"); name {
			case "agent-01":
				data.Agent = u
			case "dashboard":
				data.Dashboard = u
			}
		}
	}
	return guideText.Execute(out, data)
}

// endpoint is where a client on this machine reaches a listener, nil if it is off.
func (s *Server) endpoint(name string) *endpoint {
	host, port, err := net.SplitHostPort(s.addresses[name])
	if err != nil {
		return nil
	}
	if ip := net.ParseIP(host); ip != nil && (host == "127.0.0.1" || ip.IsUnspecified()) {
		host = "localhost"
	}
	if s.ca == "" && s.leaf != nil && s.leaf.VerifyHostname(host) != nil && len(s.leaf.DNSNames) > 0 {
		host = s.leaf.DNSNames[0] // what clients check is the certificate's name
	}
	e := &endpoint{host, host, port}
	if strings.Contains(host, ":") {
		e.Host = "[" + host + "]"
	}
	return e
}

// quoteShell quotes a file name if a shell would take it apart.
func quoteShell(s string) string {
	if strings.ContainsAny(s, " \t'\"\\$`&|;<>()*?[]#~!{}") {
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	return s
}
