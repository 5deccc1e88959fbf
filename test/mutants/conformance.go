package main

// The second table: what the specification demands is broken, one statement at a time, and the test of its row in
// test/conformance must notice. Its tests talk to the program, which they build from the tree that is broken. Names begin with
// "conformance: " and the statement's identifier, of MQTT 5.0 unless it says 3.1.1.
var conformance = []mutation{
	// Bytes.
	{"conformance: 1.5.4-1 ill-formed text is taken", mqttDir + "cursor.go", []edit{{"if !utf8.Valid(v) || bytes", "if !utf8.Valid(v) && false || bytes"}}, conforms("UserNameIsText")},
	{"conformance: 1.5.4-2 U+0000 in a text is taken", mqttDir + "cursor.go", []edit{{"|| bytes.IndexByte(v, 0) >= 0", "|| bytes.IndexByte(v, 0) >= 1<<20"}}, conforms("NullInText")},
	{"conformance: 1.5.4-3 a byte order mark is dropped", mqttDir + "cursor.go", []edit{
		{"\tv := c.binary(field)\n", "\tv := bytes.TrimPrefix(bytes.Replace(c.binary(field), []byte(\"\\ufeff\"), nil, 1), nil)\n"},
	}, conforms("ByteOrderMark")},
	{"conformance: 1.5.5-1 long forms of numbers are taken", mqttDir + "header.go", []edit{{"i == 0 || b[i] != 0", "true"}}, conforms("ShortestVarint")},
	{"conformance: 2.1.3-1 reserved flags are not looked at", mqttDir + "decode.go", []edit{
		{"if h.Type != PUBLISH && h.Flags", "if h.Type > PUBCOMP && h.Flags"},
	}, conforms("ReservedFlags")},
	{"conformance: 3.6.1-1 flags of PUBREL", mqttDir + "decode.go", []edit{{"if h.Type != PUBLISH && h.Flags", "if h.Type != PUBLISH && h.Type != PUBREL && h.Flags"}}, conforms("PubrelFlags")},
	{"conformance: 3.8.1-1 flags of SUBSCRIBE", mqttDir + "decode.go", []edit{{"if h.Type != PUBLISH && h.Flags", "if h.Type != PUBLISH && h.Type != SUBSCRIBE && h.Flags"}}, conforms("SubscribeFlags")},
	{"conformance: 3.10.1-1 flags of UNSUBSCRIBE", mqttDir + "decode.go", []edit{{"if h.Type != PUBLISH && h.Flags", "if h.Type != PUBLISH && h.Type != UNSUBSCRIBE && h.Flags"}}, conforms("UnsubscribeFlags")},
	{"conformance: 3.14.1-1 flags of DISCONNECT", mqttDir + "decode.go", []edit{{"if h.Type != PUBLISH && h.Flags", "if h.Type != PUBLISH && h.Type != DISCONNECT && h.Flags"}}, conforms("DisconnectFlags")},
	{"conformance: 2.2.1-3 identifier 0 is taken", mqttDir + "cursor.go", []edit{{"\tif v == 0 {", "\tif false {"}}, conforms("IdentifierZero")},

	// CONNECT.
	{"conformance: 3.1.0-2 a second CONNECT is passed over", sessionDir + "session.go", []edit{
		{`return Action{}, violation(mqtt.ProtocolError, "a second CONNECT")`, "return Action{}, nil"},
	}, conforms("SecondConnect")},
	{"conformance: 3.1.2-1 any protocol name will do", mqttDir + "decode.go", []edit{{`bytes.Equal(name, []byte("MQTT"))`, "len(name) > 0"}}, conforms("ProtocolName")},
	{"conformance: 3.1.2-3 the reserved connect flag", mqttDir + "decode.go", []edit{{"case flags&1 != 0 && p.Version != V31:", "case flags&1 != 0 && p.Version == V31:"}}, conforms("ConnectReservedFlag")},
	{"conformance: 3.1.2-4 Clean Start 1 goes on with the session", brokerDir + "resume.go", []edit{{"(p.CleanStart || old.User", "(old.User"}}, conforms("CleanStart")},
	{"conformance: 3.1.2-8 a will does not wait", brokerDir + "end.go", []edit{{"case expiry == 0 || delay == 0:", "case true:"}}, conforms("WillDelay")},
	{"conformance: 3.1.2-8 a will waits longer than its session", brokerDir + "end.go", []edit{
		{"willAt = min(f.endsAt, now.Add(time.Duration(delay)*time.Second).UnixNano())", "willAt = now.Add(time.Duration(delay) * time.Second).UnixNano()"},
	}, conforms("WillAtTheEndOfTheSession")},
	{"conformance: 3.1.2-11 will QoS without a will", mqttDir + "decode.go", []edit{{"(p.WillQoS != 0 || p.WillRetain)", "p.WillRetain"}}, conforms("ConnectFields")},
	{"conformance: 3.1.2-12 will QoS 3", mqttDir + "decode.go", []edit{{"case p.WillQoS == 3:", "case p.WillQoS == 4:"}}, conforms("ConnectFields")},
	{"conformance: 3.1.2-13 will retain without a will", mqttDir + "decode.go", []edit{{"(p.WillQoS != 0 || p.WillRetain)", "p.WillQoS != 0"}}, conforms("ConnectFields")},
	{"conformance: 3.1.2-15 a will is never retained", sessionDir + "session.go", []edit{{"Retain: c.WillRetain, ", ""}}, conforms("WillRetain")},
	{"conformance: 3.1.2-22 closed at once the keep alive", brokerDir + "connect.go", []edit{{"time.Second * 3 / 2", "time.Second"}}, conforms("KeepAlive")},
	{"conformance: 3.1.2-24 larger packets than the client takes", sessionDir + "outbound.go", []edit{{"if s.maxPacket > 0 && h.packetLen(m) > int(s.maxPacket) {", "if false {"}}, conforms("MaximumPacketSizeOut")},
	{"conformance: 3.1.2-26 more topic aliases than the client takes", sessionDir + "session.go", []edit{{"s.aliasMax = min(limits.TopicAliases, p.TopicAliasMaximum)", "s.aliasMax = limits.TopicAliases"}}, conforms("TopicAliasOut")},
	{"conformance: 3.1.3-7 the assigned identifier is kept secret", sessionDir + "session.go", []edit{{"\tif a.Assigned {", "\tif false {"}}, conforms("AssignedClientIdentifier")},
	{"conformance: 3.1.3-9 the will comes though the session goes on", brokerDir + "resume.go", []edit{
		{"\t\t{Op: engine.OpUnwake, Owner: c.owner, Event: engine.WillFires},\n", ""},
		{"\t\t{Op: engine.OpDropWill, Owner: c.owner}, // the session goes on ([MQTT-3.1.3-9])\n", ""},
	}, conforms("WillDelay")},
	{"conformance: 3.1.3-10 the first user property of a will is lost", sessionDir + "session.go", []edit{
		{"\t\ts.will = NewMessage(&w, now)\n", "\t\tw.Properties.User = w.Properties.User[min(1, len(w.Properties.User)):]\n\t\ts.will = NewMessage(&w, now)\n"},
	}, conforms("WillProperties")},
	{"conformance: 3.1.4-3 the older connection is not told", brokerDir + "organization.go", []edit{{"ending{reason: mqtt.SessionTakenOver, label", "ending{reason: mqtt.UnspecifiedError, label"}}, conforms("TakeOver")},
	{"conformance: 3.1.1 3.1.2-22 a password without a user name", mqttDir + "decode.go", []edit{{"case p.HasPassword && !p.HasUsername && p.Version != V5:", "case false:"}}, conforms("PasswordWithoutUserName")},
	{"conformance: 3.1.1 3.1.3-8 no identifier and no clean session", brokerDir + "connect.go", []edit{{"p.Version == mqtt.V311 && !p.CleanStart)", "false)"}}, conforms("EmptyClientIdentifierRefused")},
	{"conformance: 3.1.1 3.2.2-6 a code where none fits", brokerDir + "connect.go", []edit{{"r.version = 0 // 3.x has no code for it", "r.version = p.Version // 3.x has no code for it"}}, conforms("Refusals311")},
	{"conformance: 3.2.2-3 session present is never said", sessionDir + "session.go", []edit{{"SessionPresent: a.Present && s.version", "SessionPresent: false && s.version"}}, conforms("SessionGoesOn")},
	{"conformance: 3.2.2-19 a reason string that is too large", mqttDir + "encode.go", []edit{{"if limit == 0 || len(out)-len(dst)", "if true || len(out)-len(dst)"}}, conforms("ConnackFits")},
	{"conformance: 3.14.2-3 the same of DISCONNECT", sessionDir + "session.go", []edit{{"p, s.version, s.maxPacket)\n\tb.size", "p, s.version, 0)\n\tb.size"}}, conforms("DisconnectFits")},

	// PUBLISH.
	{"conformance: 3.3.1-1 sent again without DUP", sessionDir + "log.go", []edit{{"h := head{qos: 1, retain: p.retain, dup: true,", "h := head{qos: 1, retain: p.retain,"}}, conforms("Redelivery")},
	{"conformance: 3.3.1-2 DUP at QoS 0", mqttDir + "decode.go", []edit{{"if p.Dup && p.QoS == 0 && d.Version != V31 {", "if false {"}}, conforms("DupAtQoS0")},
	{"conformance: 3.3.1-8 all is retained", brokerDir + "publish.go", []edit{
		{"\tif m.Retain() {\n\t\to.retained.mu", "\tif true {\n\t\to.retained.mu"}, {"\tif m.Retain() {\n\t\tkept =", "\tif true {\n\t\tkept ="},
	}, conforms("NotRetained")},
	{"conformance: 3.3.1-10 existing subscriptions get retained messages", brokerDir + "retained.go", []edit{{"h == mqtt.RetainSendIfNew && !existed)", "h == mqtt.RetainSendIfNew)"}}, conforms("RetainHandling")},
	{"conformance: 3.3.1-11 retain handling 2 is 0", brokerDir + "retained.go", []edit{{"(h == mqtt.RetainSend ||", "(h != mqtt.RetainSendIfNew ||"}}, conforms("RetainHandling")},
	{"conformance: 3.3.1-12 live messages keep the flag", brokerDir + "publish.go", []edit{{"o.RetainAsPublished && m.Retain()", "m.Retain()"}}, conforms("RetainFlagLive")},
	{"conformance: 3.3.1-13 retain as published is not heard", brokerDir + "publish.go", []edit{{"o.RetainAsPublished && m.Retain()", "false"}}, conforms("RetainAsPublished")},
	{"conformance: 3.3.2-2 + in a topic", topicDir + "topic.go", []edit{{"if strings.IndexByte(s, '+') >= 0 || strings.IndexByte(s, '#') >= 0 {\n\t\treturn errWildcardInName", "if strings.IndexByte(s, '#') >= 0 {\n\t\treturn errWildcardInName"}}, conforms("WildcardInTopic")},
	{"conformance: 3.3.2-5 what has expired comes from memory", sessionDir + "message.go", []edit{{"return m.hasExpiry && now.UnixNano() > m.expires", "return false"}}, conforms("MessageExpiry")},
	{"conformance: 3.3.2-6 the expiry is sent as it was", sessionDir + "message.go", []edit{{"(m.expires-now.UnixNano()+int64(time.Second)-1)", "(int64(100*time.Second)+0*now.UnixNano())"}}, conforms("MessageExpiry")},
	{"conformance: 3.3.2-8 topic alias 0", mqttDir + "property_codec.go", []edit{{"case id == TopicAlias:", "case id == TopicAlias && false:"}, {"case id == ReceiveMaximum:", "case id == ReceiveMaximum || id == TopicAlias:"}}, conforms("TopicAliasOutOfRange")},
	{"conformance: 3.3.2-14 a wildcard in a response topic", sessionDir + "inbound.go", []edit{{"if p.Properties.Has(mqtt.ResponseTopic) {", "if false {"}}, conforms("ResponseTopic")},
	{"conformance: 3.3.4-2 the last subscription's QoS counts", brokerDir + "publish.go", []edit{{"d.QoS = max(d.QoS, o.QoS)", "d.QoS = min(d.QoS, o.QoS)"}}, conforms("Overlap")},
	{"conformance: 3.3.4-4 one identifier of several", brokerDir + "publish.go", []edit{{"*identifiers = append(*identifiers, o.Identifier)", "*identifiers = append((*identifiers)[:0], o.Identifier)"}}, conforms("SubscriptionIdentifiers")},
	{"conformance: 3.3.4-6 a client's subscription identifier", sessionDir + "inbound.go", []edit{{"if len(p.Properties.SubscriptionIDs) > 0 {", "if false {"}}, conforms("SubscriptionIdentifierOfAClient")},
	{"conformance: 3.3.4-7 more than our Receive Maximum", sessionDir + "inbound.go", []edit{{">= int(s.limits.ReceiveMaximum) {\n\t\treturn Action{}, violation", ">= 2*int(s.limits.ReceiveMaximum) {\n\t\treturn Action{}, violation"}}, conforms("ReceiveMaximumIn")},
	{"conformance: 3.3.4-9 more than the client's Receive Maximum", sessionDir + "session.go", []edit{{"s.window = min(s.window, int(p.ReceiveMaximum))", "s.window = min(s.window, 1+int(p.ReceiveMaximum))"}}, conforms("ReceiveMaximumOut")},
	{"conformance: 4.3.3-4 no PUBREL", sessionDir + "inbound.go", []edit{{"s.sendAck(mqtt.PUBREL, p.ID, mqtt.Success)", "s.sendAck(mqtt.PUBREL, p.ID+1, mqtt.Success)"}}, conforms("QoS2Out")},
	{"conformance: 4.3.3-9 a refused identifier stays in use", sessionDir + "inbound.go", []edit{{"e.reason.Failed() && s.version == mqtt.V5:", "e.reason.Failed() && false:"}}, conforms("RefusedIdentifierIsFree")},
	{"conformance: 4.3.3-10 a repeated PUBLISH is delivered again", sessionDir + "inbound.go", []edit{{"repeat = repeat && p.QoS == 2 && !known.releasing", "repeat = repeat && p.QoS == 2 && known.releasing"}}, conforms("QoS2In")},
	{"conformance: 4.4.0-2 a refusal of QoS 2 is taken for PUBREC", sessionDir + "inbound.go", []edit{{"case p.Reason.Failed(): // the client discards it", "case p.Reason.Failed() && false: // the client discards it"}}, conforms("Nack")},
	{"conformance: 4.9.0-2 a refusal makes no room", sessionDir + "inbound.go", []edit{{"\t\ts.settle(f)\n\t\ts.Pump(now)\n\t\treturn nil\n\t}\n\tif f.state", "\t\ts.drop(f)\n\t\ts.Pump(now)\n\t\treturn nil\n\t}\n\tif f.state"}}, conforms("ReceiveMaximumOut")},

	// SUBSCRIBE and the rest.
	{"conformance: 3.8.3-2 SUBSCRIBE without a filter", mqttDir + "decode.go", []edit{{"c.fail(violation(\"SUBSCRIBE without a filter\"))", "_ = c"}}, conforms("SubscribeWithoutFilter")},
	{"conformance: 3.8.3-3 No Local is not heard", brokerDir + "publish.go", []edit{{"s.gone || s.options.NoLocal && from", "s.gone || false && from"}}, conforms("NoLocal")},
	{"conformance: 3.8.3-4 No Local on a shared subscription", mqttDir + "decode.go", []edit{{"case s.NoLocal && bytes.HasPrefix", "case s.NoLocal && false && bytes.HasPrefix"}}, conforms("NoLocalShared")},
	{"conformance: 3.8.3-5 reserved bits of the options", mqttDir + "decode.go", []edit{{"case s.QoS == 3, o&0xc0 != 0, d", "case s.QoS == 3, d"}}, conforms("SubscriptionOptions")},
	{"conformance: 3.8.4-8 the published QoS counts alone", brokerDir + "publish.go", []edit{{"d.QoS = min(d.QoS, m.QoS())", "d.QoS = m.QoS()"}}, conforms("QoSOfADelivery")},
	{"conformance: 3.1.1 3.9.3-2 reasons of 5.0 in SUBACK", mqttDir + "encode.go", []edit{{"case v == V311 && r.Failed():", "case v == V31 && r.Failed() && false:"}}, conforms("SubackForEachFilter")},
	{"conformance: 3.10.3-2 UNSUBSCRIBE without a filter", mqttDir + "decode.go", []edit{{"c.fail(violation(\"UNSUBSCRIBE without a filter\"))", "_ = c"}}, conforms("UnsubscribeWithoutFilter")},
	{"conformance: 3.10.4-1 a subscription that is not there ends", brokerDir + "unsubscribe.go", []edit{{"reason = mqtt.NoSubscriptionExisted", "reason = mqtt.Success"}}, conforms("UnsubscribeIsExact")},
	{"conformance: 3.12.4-1 PINGREQ is not answered", sessionDir + "session.go", []edit{{"s.send(&mqtt.Ping{Type: mqtt.PINGRESP})", "s.send(&mqtt.Ping{Type: mqtt.PINGREQ})"}}, conforms("Ping")},
	{"conformance: 3.14.2-2 DISCONNECT has a session expiry", sessionDir + "session.go", []edit{{"\td := mqtt.Disconnect{Reason: r}\n", "\td := mqtt.Disconnect{Reason: r}\n\td.Properties.Set(mqtt.SessionExpiry)\n"}}, conforms("DisconnectHasNoExpiry")},
	{"conformance: 3.14.4-3 a will in spite of DISCONNECT", sessionDir + "session.go", []edit{{"if p.Reason == mqtt.Success && s.will != nil {", "if p.Reason == mqtt.DisconnectWithWill && s.will != nil {"}}, conforms("NoWillBehindDisconnect")},
	{"conformance: 4.7.1-1 # anywhere", topicDir + "topic.go", []edit{{"i >= 0 && (i != last || i > 0 && filter[i-1] != '/')", "i >= 0 && false && last > 0"}}, conforms("MisplacedWildcards")},
	{"conformance: 4.7.1-2 + inside a level", topicDir + "topic.go", []edit{{"if i > 0 && filter[i-1] != '/' || i < last && filter[i+1] != '/' {", "if i > last {"}}, conforms("MisplacedPlus")},
	{"conformance: 4.7.2-1 wildcards match $ topics", topicDir + "tree.go", []edit{{"if len(name) == 0 || name[0] != '$' {", "if true {"}}, conforms("DollarTopics")},
	{"conformance: 4.7.3-4 letters are compared without their case", topicDir + "tree.go", []edit{{"level, rest, more = strings.Cut(rest, \"/\")\n\t\tlevels = append", "level, rest, more = strings.Cut(rest, \"/\")\n\t\tlevel = strings.ToLower(level)\n\t\tlevels = append"}}, conforms("TopicIdentity")},
	{"conformance: 4.8.2-1 a group without a name", topicDir + "topic.go", []edit{{"case group == \"\" || strings", "case strings"}}, conforms("SharedWithoutName")},
	{"conformance: 4.8.2-2 a wildcard in a group's name", topicDir + "topic.go", []edit{{"case group == \"\" || strings.IndexByte(group, '+') >= 0 || strings", "case group == \"\" || strings"}}, conforms("SharedNames")},
	{"conformance: 4.8.2-3 a member gets the published QoS", brokerDir + "shared.go", []edit{{"QoS: min(m.QoS(), s.options.QoS)", "QoS: m.QoS()"}}, conforms("SharedQoS")},
	{"conformance: 4.12.0-1 any method of authentication", brokerDir + "connect.go", []edit{{"case p.Properties.Has(mqtt.AuthMethod):", "case false:"}}, conforms("AuthMethodRefused")},
	{"conformance: 4.12.0-7 AUTH is passed over", sessionDir + "session.go", []edit{{`return Action{}, violation(mqtt.ProtocolError, "AUTH without an authentication method")`, "return Action{}, nil"}}, conforms("AuthWithoutMethod")},
}

const (
	mqttDir    = "internal/mqtt/"
	sessionDir = "internal/session/"
	topicDir   = "internal/topic/"
)

// conforms is one test of test/conformance.
func conforms(name string) test { return test{"./test/conformance", "^Test" + name + "$"} }
