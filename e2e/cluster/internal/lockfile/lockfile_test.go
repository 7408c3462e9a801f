package lockfile

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

func TestASecondHolderWaitsForTheFirst(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "nsm.lock")
	first, err := Acquire(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 60*time.Millisecond)
	defer cancel()
	if _, err := Acquire(short, path); err == nil {
		t.Fatal("two holders at once")
	}
	if err := first.Release(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the released lock left its file: %v", err)
	}
}

func TestManyHoldersNeverOverlap(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nsm.lock")
	var inside, worst int
	var count sync.Mutex
	var holders sync.WaitGroup
	for range 8 {
		holders.Go(func() {
			lock, err := Acquire(t.Context(), path)
			if err != nil {
				t.Error(err)
				return
			}
			count.Lock()
			inside++
			worst = max(worst, inside)
			count.Unlock()
			time.Sleep(2 * time.Millisecond)
			count.Lock()
			inside--
			count.Unlock()
			if err := lock.Release(); err != nil {
				t.Error(err)
			}
		})
	}
	holders.Wait()
	if worst != 1 {
		t.Errorf("%d holders at once", worst)
	}
}
