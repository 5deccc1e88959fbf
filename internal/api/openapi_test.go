package api

import (
	"bytes"
	"flag"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var rewrite = flag.Bool("rewrite", false, "write openapi.yaml anew")

func TestDocumentIsUpToDate(t *testing.T) {
	text, err := New(Config{}).huma.OpenAPI().YAML()
	if err != nil {
		t.Fatal(err)
	}
	if *rewrite {
		if err := os.WriteFile("openapi.yaml", text, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(text, OpenAPI()) {
		t.Errorf("openapi.yaml is not what the code says; go test ./internal/api -rewrite, and read the difference:\n%s",
			cmp.Diff(string(OpenAPI()), string(text)))
	}
}
