package broker

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestWheel: whoever asks again until its time has come, as connections do, is seen in the first tick behind it: never
// early, and less than two ticks late while the clock's ticks come in time. That holds for deadlines beyond the wheel too.
func TestWheel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var w wheel
		now := time.Unix(1_700_000_000, int64(rapid.IntRange(0, 1e9-1).Draw(t, "start")))
		deadlines := make(map[*watch]time.Time) // those that were over before are over now
		add := func() {
			most := rapid.SampledFrom([]time.Duration{wheelTick, 10 * time.Second, wheelSlots * wheelTick, 3 * wheelSlots * wheelTick}).Draw(t, "most")
			at := now.Add(time.Duration(rapid.Int64Range(-int64(wheelTick), int64(most)).Draw(t, "deadline")))
			c := new(watch)
			w.add(c, at)
			if deadlines[c] = at; at.Before(now) {
				deadlines[c] = now
			}
		}
		for range rapid.IntRange(1, 5).Draw(t, "before the first tick") {
			add()
		}
		for tick := 0; tick < 40 || len(deadlines) > 0; tick++ {
			step := wheelTick
			if tick < 40 && rapid.IntRange(0, 9).Draw(t, "stall") == 0 { // the process was stopped
				step = time.Duration(rapid.Int64Range(0, int64(2*wheelSlots*wheelTick)).Draw(t, "step"))
			}
			was := now
			now = now.Add(step)
			for _, c := range w.due(now) {
				at, known := deadlines[c]
				switch {
				case !known:
					t.Fatal("seen twice")
				case now.Before(at):
					w.add(c, at)
				case !was.Before(at.Add(wheelTick)): // there was a tick when it was over
					t.Fatalf("seen %v late, and not %v before", now.Sub(at), step)
				default:
					delete(deadlines, c)
				}
			}
			if tick < 40 && rapid.IntRange(0, 2).Draw(t, "add") == 0 {
				add()
			}
			if tick > 4*wheelSlots+40 {
				t.Fatalf("%d are never seen", len(deadlines))
			}
		}
		for i := range w.slots {
			if len(w.slots[i]) > 0 {
				t.Fatalf("slot %d keeps %d", i, len(w.slots[i]))
			}
		}
	})
}

// TestWheelFarDeadline: what lies beyond the wheel is looked at once a turn, not more often.
func TestWheelFarDeadline(t *testing.T) {
	var w wheel
	now := time.Unix(1_700_000_000, 0)
	w.due(now)
	w.add(new(watch), now.Add(time.Hour))
	for tick := 1; tick < 2*wheelSlots; tick++ {
		now = now.Add(wheelTick)
		if len(w.due(now)) > 0 {
			if tick < wheelSlots-1 {
				t.Errorf("looked at after %d ticks", tick)
			}
			return
		}
	}
	t.Error("never looked at")
}

// TestWheelIsNotEarly: within one turn a connection is not even looked at before its time, and is where the clock is set back.
func TestWheelIsNotEarly(t *testing.T) {
	var w wheel
	now := time.Unix(1_700_000_000, 0)
	w.due(now)
	for slots := range wheelSlots - 2 {
		c := new(watch)
		at := now.Add(time.Duration(slots)*wheelTick + wheelTick/2)
		w.add(c, at)
		w.due(now.Add(-time.Hour))
		for {
			now = now.Add(wheelTick / 5)
			if seen := w.due(now); len(seen) > 0 {
				if seen[0] != c || now.Before(at) || now.Sub(at) > wheelTick {
					t.Fatalf("%d slots: seen %v behind its time", slots, now.Sub(at))
				}
				break
			}
		}
	}
}
