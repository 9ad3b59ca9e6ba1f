package exporter

import (
	"testing"

	"github.com/connspan/connspan/internal/actor"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	actor.Main()
	goleak.VerifyTestMain(m)
}
