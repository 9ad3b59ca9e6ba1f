package receiver

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/connspan/connspan/internal/actor"
)

func TestMain(m *testing.M) {
	actor.Main()
	goleak.VerifyTestMain(m)
}
