package main

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain makes this process a child of a test where it was started as one.
func TestMain(m *testing.M) {
	if role := roles[os.Getenv(roleEnv)]; role != nil {
		err := role()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}
