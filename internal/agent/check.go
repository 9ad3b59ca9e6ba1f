package agent

import (
	"bytes"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/connspan/connspan/exporter"
)

// check tells, need by need, whether tracing is possible here.
func check(btf string, stdout io.Writer) error {
	needs := exporter.Check(btf)
	width, unmet := 0, 0
	for _, n := range needs {
		width = max(width, utf8.RuneCountInString(n.Name))
		if n.Err != nil {
			unmet++
		}
	}
	var b bytes.Buffer
	for _, n := range needs {
		if n.Err == nil {
			fmt.Fprintf(&b, "ok  %-*s  %s\n", width, n.Name, n.Found)
			continue
		}
		fmt.Fprintf(&b, "NO  %-*s  %s\n", width, n.Name, oneLine(n.Err))
		fmt.Fprintf(&b, "    %-*s  -> %s\n", width, "", n.Remedy)
	}
	if unmet == 0 {
		fmt.Fprintf(&b, "connspan can run: all %d needs are met\n", len(needs))
	} else {
		fmt.Fprintf(&b, "connspan cannot run: %d of %d needs are not met\n", unmet, len(needs))
	}
	if _, err := stdout.Write(b.Bytes()); err != nil {
		return err
	}
	if unmet > 0 {
		return errSaid
	}
	return nil
}
