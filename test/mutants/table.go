package main

// The table. A row is {name, file, edits, test}:
//
//   - name says what is broken, in words; MUTANTS=pattern selects by it;
//   - each old text must be in the file exactly once, else the run fails before it starts: the row is out of date. Take as
//     much of the line, or of the lines around it, as makes it unique;
//   - the new text must build: a variable that it leaves unused is kept by `_ = name` or by `|| true`;
//   - the test must pass on the source as it is and turn red on the mutation, each time. Name the narrowest there is, and the
//     one whose duty it is: the run says which has noticed. It runs in a copy of what git knows: no node_modules, no data/.
//
// A mutation that survives means a missing test, or code that nothing needs.
var table = []mutation{
	// What the engine promises.
	{"sync taken out", store + "commit.go", []edit{
		{"err = s.db.ApplyNoSyncWait(g.write, pebble.Sync)", "err = s.db.Apply(g.write, pebble.NoSync)"},
		{"if !s.options.unsynced {\n\t\t\tif err", "if false {\n\t\t\tif err"},
	}, contract("Crash")},
	{"readers see what the database shows", store + "read.go", []edit{{"err := f(v.snapshot)", "err := f(s.db)"}}, storeTest("DuringSync")},
	{"readers see a group before its sync", store + "commit.go", []edit{
		{"if s.options.readUnsynced {", "if true {"},
	}, storeTest("DuringSync")},
	{"then is called before readers see it", store + "commit.go", []edit{
		{"if failure == nil {\n\t\t\ts.show(g)", "if failure == nil {\n\t\t\tdefer s.show(g)"},
	}, contract("Commit")},
	{"a failed sync is acknowledged", store + "commit.go", []edit{{"failure := s.failure()", "var failure error"}}, storeTest("FailingDisk")},
	{"writing goes on behind a failed sync", store + "disk.go", []edit{
		{"\t\td.dead.Store(true) // before fail: whoever learns of it finds nothing written after\n", ""},
		{"func (d *disk) do(f func() error) error {\n\tif d.dead.Load() {", "func (d *disk) do(f func() error) error {\n\tif false {"},
	}, storeTest("StopsAtFailure")},
	{"a full disk stops what frees space too", store + "pack.go", []edit{{"if r.batch.Grows() {", "if true {"}}, contract("Full")},
	{"a newer format is opened", store + "pebble.go", []edit{{"if format <= formatVersion {", "if true {"}}, storeTest("NewerFormat")},
	{"a short manifest is opened", store + "manifest.go", []edit{{"if readable < size {", "if false {"}}, storeTest("Manifest")},

	// Numbers.
	{"position not written with the batch", store + "pack.go", []edit{
		{"appendMeta(p.value[:0], &o.meta)\n\t\tp.set()\n", "appendMeta(p.value[:0], &o.meta)\n"},
	}, contract("Positions")},
	{"used owners are not written", store + "pack.go", []edit{
		{"o.meta.owners = n + numberBlock", "o.meta.owners += 0"},
	}, contract("Numbers")},
	{"used filters are not written", store + "pack.go", []edit{
		{"o.meta.filters = n + numberBlock", "o.meta.filters += 0"},
	}, contract("Numbers")},
	{"Since is one position late", store + "pack.go", []edit{
		{"since = o.meta.position\n", "since = o.meta.position + 1\n"},
	}, contract("Positions")},
	{"the start of a run is not written", store + "pebble.go", []edit{
		{"{keyStart(nil, s.run), binary.BigEndian.AppendUint64(nil, uint64(s.options.Now().UnixNano()))},", ""},
	}, contract("Started")},

	// The log.
	{"a small body of several filters is not written", store + "pack.go", []edit{
		{"if len(p.states) > 0 && !inline {", "if len(p.states) > 0 && size > inlineBody {"},
	}, contract("Page")},
	{"a filter named twice has the message twice", store + "pack.go", []edit{
		{"if state.there && state.last != position {", "if state.there {"},
	}, contract("Random")},
	{"page stops one early", store + "page.go", []edit{
		{"keyIndex(nil, p.organization, c.filter, p.upTo+1))", "keyIndex(nil, p.organization, c.filter, p.upTo))"},
	}, contract("Page")},
	{"page begins one late", store + "page.go", []edit{{"from: max(from, cut) + 1}", "from: max(from, cut) + 2}"}}, contract("Page")},
	{"backlog is one short", store + "page.go", []edit{
		{"messages, bytes = last.count-first.count+1,", "messages, bytes = last.count-first.count,"},
	}, contract("Random")},
	{"trim goes one too far", store + "end.go", []edit{
		{"keyIndex(nil, o.number, filter, upTo+1))", "keyIndex(nil, o.number, filter, upTo+2))"},
	}, contract("Random")},
	{"trim is not remembered", store + "end.go", []edit{{"\tp.setTrim(o, filter, upTo)\n", ""}}, storeTest("NothingLeft")},

	// What an Outgoing holds.
	{"trim of bodies passes over holds", store + "end.go", []edit{{"\t\t\tupTo = position&^engine.Shared - 1\n", ""}}, contract("Held")},
	{"trim of bodies believes holds that are gone", store + "end.go", []edit{
		{"func([]byte) error { return nil }); holds {", "func([]byte) error { return nil }); holds || true {"},
	}, storeTest("NothingLeft")},
	{"a shared group's hold is taken for the owner's", store + "keys.go", []edit{
		{"uint64(owner)|uint64(position&engine.Shared))", "uint64(owner))"},
	}, contract("HeldShared")},
	{"a shared group's copy is where no one reads", store + "pack.go", []edit{
		{"keySubPosition(p.key, o.number, op.Owner, subCopy, position), appendEntry", "keySubPosition(p.key, o.number, op.Owner, subCopy, position&^engine.Shared), appendEntry"},
	}, contract("HeldShared")},
	{"a small message is held, not copied", store + "pack.go", []edit{
		{"if len(op.Entry.Body) <= inlineBody || op.Copy {", "if false {"},
	}, contract("Held")},
	{"completing leaves the copy", store + "pack.go", []edit{
		{"subCopy, op.Position)\n\tp.remove()\n", "subCopy, op.Position)\n"},
	}, contract("Held")},

	// Owners, and their times.
	{"the end of an owner leaves the ids it received", store + "end.go", []edit{
		{"p.removeRange(keySub(nil, o.number, owner, 0),", "p.removeRange(keySub(nil, o.number, owner, subOutgoing),"},
		{"LowerBound: keySub(nil, id.organization, id.owner, 0),", "LowerBound: keySub(nil, id.organization, id.owner, subOutgoing),"},
	}, storeTest("NothingLeft")},
	{"the end of an owner takes another's client identifier", store + "end.go", []edit{
		{"if owner == id.owner {", "if owner != 0 {"},
	}, contract("Random")},
	{"waking leaves the old time", store + "end.go", []edit{
		{"p.key = keyTime(p.key, due)\n\t\tp.remove()\n", "p.key = keyTime(p.key, due)\n"},
	}, storeTest("NothingLeft")},
	{"cleaning up removes times that count", store + "end.go", []edit{
		{"if !w.set || w.at != d.At {", "if !w.set || w.at != d.At || true {"},
	}, contract("Due")},
	{"a dropped organization leaves its records", store + "end.go", []edit{
		{"for kind := kindIndex; kind < kindTime; kind++ {", "for kind := kindIndex; kind < kindRetained; kind++ {"},
	}, contract("Drop")},

	// What the broker makes of it.
	{"a message whose commit has failed is acknowledged", brokerDir + "publish.go", []edit{
		{"if err != nil {\n\t\trefusal, refused", "if false {\n\t\trefusal, refused"},
	}, brokerTest("FailedSync")},
	{"a cursor passes what is in flight", brokerDir + "kept.go", []edit{
		{"if oldest := c.session.Oldest(); oldest != 0 {", "if oldest := c.session.Oldest(); oldest != 0 && false {"},
	}, scenario("cursor_saved")},
	{"wills are not committed", brokerDir + "resume.go", []edit{
		{"operations = append(operations, engine.Operation{Op: engine.OpWill,", "_ = append(operations, engine.Operation{Op: engine.OpWill,"},
	}, scenario("wills_stored")},
	{"inbound QoS 2 identifiers are not recorded", brokerDir + "publish.go", []edit{
		{"batch.Add(engine.Operation{Op: engine.OpReceive,", "_ = (engine.Operation{Op: engine.OpReceive,"},
	}, scenario("qos2_inbound_stored")},
	{"a released identifier stays recorded", brokerDir + "feed.go", []edit{
		{"engine.Operation{Op: engine.OpRelease,", "engine.Operation{Op: engine.OpReceive,"},
	}, scenario("qos2_inbound_stored")},
	{"what a crash left never ends", brokerDir + "resume.go", []edit{
		{"a.endsAt = ended + int64(s.Expiry)*int64(time.Second)", "a.endsAt = math.MaxInt64"},
	}, scenario("session_expiry_after_cut")},
	{"wills that a crash left do not fire", brokerDir + "resume.go", []edit{
		{"\t\ta.crashed, a.ended = true, ended\n", "\t\ta.ended = ended\n"},
	}, scenario("wills_stored")},
	{"what is in flight at the end is not recorded", brokerDir + "end.go", []edit{
		{"operations, held = c.recordSent(nil)", "operations, held = nil, nil"},
	}, scenario("redelivery")},
	{"retained messages of the last run are forgotten", brokerDir + "load.go", []edit{
		{"\t\t\to.recall(m.Topic, &m.Entry)\n", "\t\t\t_ = o.recall\n"},
	}, scenario("retained_stored")},

	// Who may do what.
	{"an actor reaches another organization", control + "scope.go", []edit{
		{"case !ok, !o.actor.above() && o.actor.Organization != r.ID:", "case !ok:"},
	}, controlTest("EveryMethodIsForItsOwn")},
	{"scopes are not looked at", control + "scope.go", []edit{{"case !o.actor.May(s):", "case false:"}}, controlTest("EveryMethodTakesItsScope")},
	{"a key gives what it has not", control + "keys.go", []edit{{"if !a.May(s) {", "if false {"}}, controlTest("KeysDoNotGiveMoreThanTheyHave")},
	{"a revoked token logs in", control + "token_memory.go", []edit{
		{"t.expires_at > $2 AND t.revoked_at = 0 `", "t.expires_at > $2 `"},
	}, controlTest("RevokeToken")},
	{"replaced tokens stay", control + "tokens.go", []edit{{"if !n.Keep {", "if false {"}}, controlTest("CreateToken")},
	{"a refresh ends the old password", control + "tokens.go", []edit{
		{"id, last+1-MaxTokenPasswords)", "id, last)"},
	}, controlTest("RefreshToken")},
	{"an ended password refreshes a token", control + "tokens.go", []edit{{"case ended:", "case false:"}}, controlTest("RefreshToken")},
	{"a rotated key stays in the directory", control + "keys.go", []edit{
		{"\t\tt.keys = true\n\t\to.store.used.fill", "\t\to.store.used.fill"},
	}, controlTest("RotateKey")},
	{"guesses push changes out of the audit", control + "audit.go", []edit{{`class, limit = "login", MaxAuditedLogins`, `class, limit = "change", MaxAuditedLogins`}}, controlTest("AuditIsBounded")},
	{"the audit keeps secrets", control + "audit.go", []edit{
		{"return access.Redact(string(text)), nil", "return string(text), nil"},
	}, test{"./internal/api", "^TestMisplacedSecrets$"}},
	{"an ended token logs in", accessDir + "authenticator.go", []edit{{"case !now.Before(p.Expires):", "case false:"}}, accessTest("TokenLogin")},
	{"a refresh does not extend the connection", accessDir + "authenticator.go", []edit{
		{"return o.tokenGrant(old.User, t, old.ClientID), nil", "return old, nil"},
	}, accessTest("TokenRegrant")},
	{"a token is not narrowed", accessDir + "grant.go", []edit{
		{"case g.narrow != nil && !g.narrow.allows(a, name):", "case false:"},
	}, accessTest("NarrowingOnlyTakesAway")},
	{"a user's failures are not limited", accessDir + "verifier.go", []edit{
		{"v.users.of(t.user, now) < float64(v.userFailures)", "v.users.of(t.user, now) >= 0"},
	}, accessTest("UserFailures")},
	{"the owner is locked out", accessDir + "verifier.go", []edit{
		{"return t.counts() && v.proven.of(t.pair, now) >= failedLately && ", "return false && "},
	}, accessTest("UserFailures")},
	{"a right guess shows at once", accessDir + "verifier.go", []edit{
		{"(!right || owner || try.admitted())", "(!right || owner || true)"},
	}, accessTest("UserFailures")},
	{"guesses tell which names there are", accessDir + "verifier.go", []edit{{"if !t.owner() && !t.admitted() {", "if false {"}}, accessTest("AttackDoesNotTellWhoIsThere")},
	// What changes while clients are connected, and limits.
	{"subscriptions outlive the rule that allowed them", brokerDir + "recheck.go", []edit{
		{"if !g.Check(access.Subscribe, []byte(filter)) {", "if !g.Check(access.Subscribe, []byte(filter)) && false {"},
	}, scenario("rules_changed")},
	{"what the rules take back stays on the disk", brokerDir + "recheck.go", []edit{
		{"\t\tc.commitRemoval(x,", "\t\t_ = len(x.operations); func(*removal, event) {}(x,"},
	}, brokerTest("TakenBackIsGone")},
	{"a change during the log-in is passed over", brokerDir + "connect.go", []edit{{"\tc.regrant(r, nil)\n", ""}}, brokerTest("ChangedWhileLoggingIn")},
	{"tokens do not end connections", brokerDir + "deadline.go", []edit{{"if !now.Before(g.Expires) {", "if false {"}}, scenario("tokens")},
	{"a token's session is kept as long as any", brokerDir + "limits.go", []edit{
		{"if g.Expires.IsZero() {\n\t\treturn expiry", "if true {\n\t\treturn expiry"},
	}, scenario("tokens")},
	{"a crash makes a token's session last longer", brokerDir + "resume.go", []edit{
		{"a.endsAt = min(a.endsAt, s.EndsAt)", "_ = s.EndsAt"},
	}, scenario("tokens")},
	{"a name's next owner inherits its sessions", brokerDir + "recheck.go", []edit{
		{"if !is(s.user.Value()) {", "if is(s.user.Value()) || true {"},
	}, scenario("users_deleted_stored")},
	{"who may do nothing any more has no will", brokerDir + "will.go", []edit{
		{"Authenticator.Last(c.grant.Load())", "Authenticator.Regrant(c.grant.Load())"},
	}, scenario("users_changed")},
	{"what there is no room for is delivered", brokerDir + "limits.go", []edit{{"\t\treturn dropStorage\n", "\t\treturn none\n"}}, scenario("limits_storage")},
	{"what was cut off stays counted", brokerDir + "janitor.go", []edit{
		{"\t\t\t\to.cutLog(d, bytes)\n", "\t\t\t\t_ = bytes\n"},
	}, brokerTest("StorageFigure")},
	{"a month's messages count in the next", brokerDir + "usage.go", []edit{
		{"u.month, u.count = now.Format(\"2006-01\"), 0", "u.month = now.Format(\"2006-01\")"},
	}, brokerTest("UsageMonths")},
	{"the oldest connections end", brokerDir + "recheck.go", []edit{
		{"range live[most:] {", "range live[:len(live)-most] {"},
	}, scenario("limits_lowered")},
	{"a rate lets all through", brokerDir + "limits.go", []edit{
		{"\t\tif next-now > int64(time.Second) {", "\t\tif false {"},
	}, brokerTest("Neighbour")},

	// The token service, publishing, sessions and retained messages over HTTP.
	{"a key makes tokens for another organization", apiDir + "tokens.go", []edit{{`if organization != "" {`, `if organization != "" && false {`}}, apiTest("TokenErrors")},
	{"refreshing tells which tokens there are", apiDir + "tokens.go", []edit{
		{"case fault.NotFound, fault.Unauthorized:", "case fault.Unauthorized:"},
	}, apiTest("TokenErrors")},
	{"guesses at a token are not limited", apiDir + "tokens.go", []edit{
		{"a.config.Now()); !v.ok {\n\t\t\treturn nil, limitedBy(c.id, a.guessing, v)", "a.config.Now()); false {\n\t\t\treturn nil, limitedBy(c.id, a.guessing, v)"},
	}, apiTest("GuessingPasswords")},
	{"a key in the body is not counted", apiDir + "tokens.go", []edit{
		{"a.config.Now()); !v.ok {\n\t\t\treturn nil, limitedBy(c.id, a.minting, v)", "a.config.Now()); false {\n\t\t\treturn nil, limitedBy(c.id, a.minting, v)"},
	}, apiTest("MakingTokensIsLimited")},
	{"two identities are one", apiDir + "tokens.go", []edit{{"Provider: ownProvider, Subject", "Provider: nativeProvider, Subject"}}, apiTest("Identities")},
	{"replace_existing is not heard", apiDir + "tokens.go", []edit{{"Keep: b.Replace != nil && !*b.Replace", "Keep: false"}}, apiTest("ReplaceToken")},
	{"a publishable key publishes as the server", apiDir + "publish.go", []edit{
		{"if actor.Kind != control.KeyActor {", "if actor.Kind != control.KeyActor || actor.KeyKind != access.SecretKey {"},
	}, apiTest("PublishRules")},
	{"a payload in base64 is sent as it is", apiDir + "publish.go", []edit{{"if encoding != inBase64 {", "if true {"}}, apiTest("PublishPayloads")},
	{"QoS 0 is published at QoS 1", apiDir + "publish.go", []edit{{"QoS: uint8(*b.QoS)", "QoS: max(1, uint8(*b.QoS))"}}, apiTest("PublishOptions")},
	{"a page of retained messages that was cut is the last", apiDir + "retained.go", []edit{{"if size >= broker.RetainedPage {", "if false {"}}, apiTest("RetainedPagesAreBounded")},
	{"a page of retained messages has no bound", brokerDir + "retained_view.go", []edit{{"if size < RetainedPage {", "if true {"}}, apiTest("RetainedPagesAreBounded")},
	{"a session is ended without an entry in the audit", apiDir + "sessions.go", []edit{
		{"if err := a.own(ctx).Note(ctx, access.SessionsWrite, action, clientID, before, nil); err != nil {", "if err := error(nil); before == nil {"},
	}, apiTest("Disconnect")},
	{"another organization's user is taken for one's own", apiDir + "sessions.go", []edit{{"if !own || !a.config", "if !own && false || !a.config"}}, apiTest("Terminate")},
}

const (
	store     = "internal/engine/pebble/"
	brokerDir = "internal/broker/"
	control   = "internal/control/"
	accessDir = "internal/access/"
	apiDir    = "internal/api/"
)

// storeTest is one test of the store, contract one part of the contract over memory.
func storeTest(name string) test { return test{"./" + store, "^Test" + name + "$"} }
func contract(part string) test  { return test{"./" + store, "^TestContract$/^" + part + "$"} }

func controlTest(name string) test { return test{"./" + control, "^Test" + name + "$"} }
func apiTest(name string) test     { return test{"./" + apiDir, "^Test" + name + "$"} }
func accessTest(name string) test  { return test{"./" + accessDir, "^Test" + name + "$"} }

// brokerTest is one test of the broker.
func brokerTest(name string) test { return test{"./" + brokerDir, "^Test" + name + "$"} }

// scenario is one text scenario.
func scenario(name string) test { return test{"./test/scenario", "^TestScenarios$/^" + name + "$"} }
