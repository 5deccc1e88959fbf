// Command cloudsignal is the server and its command line.
package main

import (
	"context"
	"os"
	"os/signal"

	"cloudsignal/internal/cli"
	"cloudsignal/internal/server"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	return cli.Run(ctx, cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, os.Args[1:], server.Command())
}
