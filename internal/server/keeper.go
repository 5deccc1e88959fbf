package server

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"cloudsignal/internal/broker"
	"cloudsignal/internal/control"
)

// How often what organizations use is written down, and what is over is swept. A crash forgets what was used since. Where there
// is much to write, writing takes a tenth of the time at most.
const (
	usageInterval = time.Second
	usageShare    = 10
	sweepInterval = time.Minute
)

// organizationPage is how many organizations are read at once at the start.
const organizationPage = 1000

// keeper writes down what organizations use, and has control sweep what is over.
type keeper struct {
	control *control.Store
	broker  *broker.Broker
	log     *slog.Logger
	stop    context.CancelFunc
	done    sync.WaitGroup
	unsaved map[unsavedKey]control.UsageAdd // that could not be written: at most one for each organization and month
}

type unsavedKey struct {
	number uint64
	month  string
}

// keep tells the broker what was used in this month before, and starts.
func keep(ctx context.Context, c *control.Store, b *broker.Broker, log *slog.Logger) (*keeper, error) {
	month := time.Now().UTC().Format("2006-01")
	for after := ""; ; {
		page, err := c.Organizations(ctx, control.System(), after, organizationPage)
		if err != nil {
			return nil, err
		}
		for _, o := range page {
			total, err := c.UsageOf(ctx, o.Number, month)
			if err != nil {
				return nil, err
			}
			b.SetMonth(o.Number, month, total.Messages)
			after = o.ID
		}
		if len(page) < organizationPage {
			break
		}
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	k := &keeper{control: c, broker: b, log: log, stop: stop, unsaved: make(map[unsavedKey]control.UsageAdd)}
	k.done.Go(func() { k.run(ctx) })
	return k, nil
}

func (k *keeper) run(ctx context.Context) {
	usage, sweep := time.NewTimer(usageInterval), time.NewTicker(sweepInterval)
	defer usage.Stop()
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-usage.C:
			began := time.Now()
			k.save(ctx)
			usage.Reset(max(usageInterval, usageShare*time.Since(began)))
		case <-sweep.C:
			if err := k.control.Sweep(ctx); err != nil && !errors.Is(err, context.Canceled) {
				k.log.Error("sweeping failed", "error", withCause("control", err).Error())
			}
		}
	}
}

// save writes what was used since the last call. What cannot be written is tried again with the next.
func (k *keeper) save(ctx context.Context) {
	for _, d := range k.broker.TakeUsage() {
		key := unsavedKey{d.Number, d.Month}
		a := k.unsaved[key]
		a.Number, a.Month = d.Number, d.Month
		a.Messages += d.Messages
		a.Deliveries += d.Deliveries
		a.BytesIn += d.BytesIn
		a.BytesOut += d.BytesOut
		a.Refused += d.Refused
		k.unsaved[key] = a
	}
	if len(k.unsaved) == 0 {
		return
	}
	adds := make([]control.UsageAdd, 0, len(k.unsaved))
	for _, a := range k.unsaved {
		adds = append(adds, a)
	}
	if err := k.control.AddUsage(ctx, adds); err != nil {
		if !errors.Is(err, context.Canceled) {
			k.log.Error("writing usage failed", "error", withCause("control", err).Error())
		}
		return
	}
	clear(k.unsaved)
}

// close writes the last of it. It comes when connections have ended.
func (k *keeper) close() error {
	k.stop()
	k.done.Wait()
	k.save(context.Background())
	return nil
}
