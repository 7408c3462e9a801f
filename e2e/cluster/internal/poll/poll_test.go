package poll

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestUntilReturnsAsSoonAsTheConditionHolds(t *testing.T) {
	calls := 0
	err := Until(t.Context(), "third call", time.Millisecond, func(context.Context) error {
		if calls++; calls < 3 {
			return errors.New("not yet")
		}
		return nil
	})
	if err != nil || calls != 3 {
		t.Fatalf("calls %d, error %v; want 3 calls and no error", calls, err)
	}
}

func TestUntilNamesWhatItWaitedForAndWhatWasMissing(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	err := Until(ctx, "node1 to be Ready", time.Millisecond, func(context.Context) error {
		return errors.New("the network plugin is not initialised")
	})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v does not say that the deadline passed", err)
	}
	for _, part := range []string{"node1 to be Ready", "network plugin"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("error %v does not mention %q", err, part)
		}
	}
}
