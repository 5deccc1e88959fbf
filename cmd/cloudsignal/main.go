// Command cloudsignal is the server and its command line.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"

	"cloudsignal/internal/cli"
	"cloudsignal/internal/server"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	root := cli.New(cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, server.Command())
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if !errors.Is(err, cli.ErrReported) {
		fmt.Fprintln(os.Stderr, "cloudsignal:", err)
	}
	return 1
}
