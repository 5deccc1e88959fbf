// Eclipse Paho for C (Debian's libpaho-mqtt-dev, the synchronous client with TLS) against a running server.
//
//	client 3.1.1|5.0 URL CA_FILE USERNAME PASSWORD
//
// URL is ssl://HOST:PORT (over wss:// the library of Debian 12, 1.3.12, does not see the acknowledgement of a message larger than a
// TLS record when the process has a second connection; over ws:// it does). It prints a line for each thing that held, and ends with 1 at the first that did
// not. The user may publish and subscribe everywhere.
#include <MQTTClient.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { patience = 15000 }; // milliseconds that anything may take

static const char *url, *ca, *username, *password, *version;
static int five;

static void fail(const char *format, ...) {
	va_list args;
	va_start(args, format);
	fprintf(stderr, "FAIL: ");
	vfprintf(stderr, format, args);
	fprintf(stderr, "\n");
	exit(1);
}

static void passed(const char *what) {
	printf("ok: %s %.3s: %s\n", version, url, what);
	fflush(stdout);
}

// A client that is connected; present says whether there was a session.
static MQTTClient dial(const char *name, int keep, const char *will, int *present) {
	MQTTClient c;
	MQTTClient_createOptions create = MQTTClient_createOptions_initializer;
	create.MQTTVersion = five ? MQTTVERSION_5 : MQTTVERSION_3_1_1;
	int rc = MQTTClient_createWithOptions(&c, url, name, MQTTCLIENT_PERSISTENCE_NONE, NULL, &create);
	if (rc != MQTTCLIENT_SUCCESS) fail("create: %d", rc);
	MQTTClient_connectOptions o = MQTTClient_connectOptions_initializer, o5 = MQTTClient_connectOptions_initializer5;
	MQTTClient_SSLOptions ssl = MQTTClient_SSLOptions_initializer;
	MQTTClient_willOptions w = MQTTClient_willOptions_initializer;
	if (five) o = o5;
	o.MQTTVersion = create.MQTTVersion;
	o.username = username;
	o.password = password;
	o.reliable = 0;
	ssl.trustStore = ca;
	ssl.verify = 1;
	o.ssl = &ssl;
	if (will) {
		w.topicName = will;
		w.message = "gone";
		w.qos = 1;
		o.will = &w;
	}
	if (five) {
		o.cleanstart = !keep;
		MQTTProperties p = MQTTProperties_initializer;
		MQTTProperty expiry = {.identifier = MQTTPROPERTY_CODE_SESSION_EXPIRY_INTERVAL, .value.integer4 = keep ? 600 : 0};
		MQTTProperties_add(&p, &expiry);
		MQTTResponse r = MQTTClient_connect5(c, &o, &p, NULL);
		rc = r.reasonCode;
		MQTTResponse_free(r);
		MQTTProperties_free(&p);
	} else {
		o.cleansession = !keep;
		rc = MQTTClient_connect(c, &o);
	}
	if (rc != 0) fail("CONNECT: %d", rc);
	if (present) *present = o.returned.sessionPresent;
	return c;
}

static void leave(MQTTClient c) {
	if (five) MQTTClient_disconnect5(c, 1000, MQTTREASONCODE_SUCCESS, NULL);
	else MQTTClient_disconnect(c, 1000);
	MQTTClient_destroy(&c);
}

static void subscribe(MQTTClient c, const char *filter, int qos, MQTTProperties *p) {
	int rc;
	if (five) {
		MQTTSubscribe_options o = MQTTSubscribe_options_initializer;
		MQTTResponse r = MQTTClient_subscribe5(c, filter, qos, &o, p);
		rc = (int)r.reasonCode == qos ? 0 : (int)r.reasonCode;
		MQTTResponse_free(r);
	} else {
		rc = MQTTClient_subscribe(c, filter, qos);
	}
	if (rc != 0) fail("SUBSCRIBE %s: %d", filter, rc);
}

static void publish(MQTTClient c, const char *topic, const void *payload, int length, int qos, int retain, MQTTProperties *p) {
	MQTTClient_message m = MQTTClient_message_initializer;
	m.payload = (void *)payload;
	m.payloadlen = length;
	m.qos = qos;
	m.retained = retain;
	MQTTClient_deliveryToken token = 0;
	int rc;
	if (five) {
		if (p) m.properties = *p;
		MQTTResponse r = MQTTClient_publishMessage5(c, topic, &m, &token);
		rc = r.reasonCode;
		MQTTResponse_free(r);
	} else {
		rc = MQTTClient_publishMessage(c, topic, &m, &token);
	}
	if (rc != 0) fail("PUBLISH %s: %d", topic, rc);
	if (qos > 0 && (rc = MQTTClient_waitForCompletion(c, token, patience)) != 0) fail("acknowledgement of %s: %d", topic, rc);
}

// The next message, which must be this one.
static MQTTClient_message *take(MQTTClient c, const char *topic, const void *payload, int length, int qos, int retained) {
	char *name = NULL;
	int n = 0;
	MQTTClient_message *m = NULL;
	int rc = MQTTClient_receive(c, &name, &n, &m, patience);
	if ((rc != MQTTCLIENT_SUCCESS && rc != MQTTCLIENT_TOPICNAME_TRUNCATED) || !m) fail("no message to %s: %d", topic, rc);
	if (strcmp(name, topic) || m->payloadlen != length || memcmp(m->payload, payload, length) || m->qos != qos || m->retained != retained)
		fail("message to %s: %d bytes at QoS %d, retained %d; want %s, %d bytes, QoS %d, retained %d", name, m->payloadlen, m->qos, m->retained, topic, length, qos, retained);
	MQTTClient_free(name);
	return m;
}

static void expect(MQTTClient c, const char *topic, const void *payload, int length, int qos, int retained) {
	MQTTClient_message *m = take(c, topic, payload, length, qos, retained);
	MQTTClient_freeMessage(&m);
}

static void every_qos(void) {
	MQTTClient to = dial("", 0, NULL, NULL), from = dial("", 0, NULL, NULL);
	subscribe(to, "c/qos/#", 2, NULL);
	for (int qos = 0; qos < 3; qos++)
		for (char i = 'a'; i <= 'f'; i++) {
			publish(from, "c/qos/x", &i, 1, qos, 0, NULL);
			expect(to, "c/qos/x", &i, 1, qos, 0);
		}
	leave(to);
	leave(from);
	passed("QoS 0, 1 and 2");
}

static void retained(void) {
	MQTTClient to = dial("", 0, NULL, NULL), from = dial("", 0, NULL, NULL);
	publish(from, "c/retained/a", "kept", 4, 1, 1, NULL);
	subscribe(to, "c/retained/#", 1, NULL);
	expect(to, "c/retained/a", "kept", 4, 1, 1);
	publish(from, "c/retained/a", "", 0, 1, 1, NULL);
	expect(to, "c/retained/a", "", 0, 1, 0);
	subscribe(from, "c/retained/#", 1, NULL);
	publish(from, "c/retained/last", "last", 4, 1, 0, NULL);
	expect(from, "c/retained/last", "last", 4, 1, 0);
	leave(to);
	leave(from);
	passed("retained");
}

// A process of its own connects with a will and is killed.
static void will(void) {
	int ready[2];
	if (pipe(ready)) fail("pipe");
	pid_t child = fork();
	if (child < 0) fail("fork");
	if (child == 0) {
		MQTTClient c = dial("", 0, "c/wills/broken", NULL);
		if (write(ready[1], c ? "1" : "0", 1) != 1) _exit(1);
		for (;;) pause();
	}
	MQTTClient to = dial("", 0, NULL, NULL);
	subscribe(to, "c/wills/#", 1, NULL);
	char one;
	close(ready[1]);
	if (read(ready[0], &one, 1) != 1) fail("the other process did not connect");
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	expect(to, "c/wills/broken", "gone", 4, 1, 0);
	leave(to);
	passed("will");
}

static void persistent(void) {
	char name[40];
	snprintf(name, sizeof name, "c-%s-%.3s-%d", version, url, (int)getpid());
	int present = 1;
	MQTTClient from = dial("", 0, NULL, NULL), to = dial(name, 1, NULL, &present);
	if (present) fail("there was a session before");
	subscribe(to, "c/kept/#", 2, NULL);
	leave(to);
	publish(from, "c/kept/a", "one", 3, 1, 0, NULL);
	publish(from, "c/kept/a", "two", 3, 2, 0, NULL);
	to = dial(name, 1, NULL, &present);
	if (!five && !present) fail("there was no session"); // of 5.0 the library does not tell
	expect(to, "c/kept/a", "one", 3, 1, 0);
	expect(to, "c/kept/a", "two", 3, 2, 0);
	publish(from, "c/kept/a", "last", 4, 1, 0, NULL);
	expect(to, "c/kept/a", "last", 4, 1, 0);
	leave(to);
	leave(from);
	passed("persistent session");
}

static void large(void) {
	int length = (1 << 20) - 32;
	char *body = malloc(length);
	if (!body) fail("no memory");
	for (int i = 0; i < length; i++) body[i] = (char)(i * 7 + i / 251);
	MQTTClient to = dial("", 0, NULL, NULL), from = dial("", 0, NULL, NULL);
	subscribe(to, "c/large/#", 2, NULL);
	for (int qos = 0; qos < 3; qos++) {
		publish(from, "c/large/a", body, length, qos, 0, NULL);
		expect(to, "c/large/a", body, length, qos, 0);
	}
	leave(to);
	leave(from);
	free(body);
	passed("1 MiB");
}

static int is(MQTTProperties *p, enum MQTTPropertyCodes id, int at, const char *name, const char *value) {
	MQTTProperty *one = MQTTProperties_getPropertyAt(p, id, at);
	if (!one || one->value.data.len != (int)strlen(name) || memcmp(one->value.data.data, name, strlen(name))) return 0;
	return !value || (one->value.value.len == (int)strlen(value) && !memcmp(one->value.value.data, value, strlen(value)));
}

static void add(MQTTProperties *p, enum MQTTPropertyCodes id, char *name, char *value) {
	MQTTProperty one = {.identifier = id};
	one.value.data.data = name;
	one.value.data.len = (int)strlen(name);
	if (value) {
		one.value.value.data = value;
		one.value.value.len = (int)strlen(value);
	}
	MQTTProperties_add(p, &one);
}

static void properties(void) {
	MQTTClient c = dial("", 0, NULL, NULL);
	MQTTProperties p = MQTTProperties_initializer, sent = MQTTProperties_initializer;
	MQTTProperty identifier = {.identifier = MQTTPROPERTY_CODE_SUBSCRIPTION_IDENTIFIER, .value.integer4 = 77};
	MQTTProperties_add(&p, &identifier);
	subscribe(c, "c/properties/#", 1, &p);
	add(&sent, MQTTPROPERTY_CODE_CONTENT_TYPE, "text/plain", NULL);
	add(&sent, MQTTPROPERTY_CODE_RESPONSE_TOPIC, "answers/here", NULL);
	add(&sent, MQTTPROPERTY_CODE_CORRELATION_DATA, "number 1", NULL);
	add(&sent, MQTTPROPERTY_CODE_USER_PROPERTY, "zebra", "1");
	add(&sent, MQTTPROPERTY_CODE_USER_PROPERTY, "apple", "2");
	publish(c, "c/properties/a", "x", 1, 1, 0, &sent);
	MQTTClient_message *m = take(c, "c/properties/a", "x", 1, 1, 0);
	MQTTProperties *got = &m->properties;
	if (!is(got, MQTTPROPERTY_CODE_CONTENT_TYPE, 0, "text/plain", NULL) || !is(got, MQTTPROPERTY_CODE_RESPONSE_TOPIC, 0, "answers/here", NULL) ||
		!is(got, MQTTPROPERTY_CODE_CORRELATION_DATA, 0, "number 1", NULL) || !is(got, MQTTPROPERTY_CODE_USER_PROPERTY, 0, "zebra", "1") ||
		!is(got, MQTTPROPERTY_CODE_USER_PROPERTY, 1, "apple", "2"))
		fail("a property is missing, or another one");
	if (MQTTProperties_getNumericValue(got, MQTTPROPERTY_CODE_SUBSCRIPTION_IDENTIFIER) != 77) fail("another subscription identifier");
	MQTTClient_freeMessage(&m);
	MQTTProperties_free(&p);
	MQTTProperties_free(&sent);
	leave(c);
	passed("properties");
}

int main(int argc, char **argv) {
	if (argc != 6) {
		fprintf(stderr, "usage: client 3.1.1|5.0 URL CA_FILE USERNAME PASSWORD\n");
		return 2;
	}
	version = argv[1];
	url = argv[2];
	ca = argv[3];
	username = argv[4];
	password = argv[5];
	five = strcmp(version, "5.0") == 0;
	MQTTClient_init_options init = MQTTClient_init_options_initializer;
	init.do_openssl_init = 1;
	MQTTClient_global_init(&init);
	will(); // first: it makes another process, and the library has no threads yet
	every_qos();
	retained();
	persistent();
	large();
	if (five) properties();
	return 0;
}
