package watch

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"
)

// octets is at most five characters: 999, 1.46K, 31.2M.
func octets(n float64) string {
	if n < 0 || math.IsNaN(n) {
		return unknown
	}
	if n < 999.5 {
		return strconv.FormatFloat(n, 'f', 0, 64)
	}
	prefix := 0
	for n >= 999.5 && prefix < len("KMGTPE") {
		n /= 1024
		prefix++
	}
	digits := 0
	if n < 9.995 {
		digits = 2
	} else if n < 99.95 {
		digits = 1
	}
	return strconv.FormatFloat(n, 'f', digits, 64) + "KMGTPE"[prefix-1:prefix]
}

// span is at most six characters: 62.6µs, 1.23s, 59m59s, 31h4m, 12d3h.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < 0:
		return unknown
	case d >= 100*day:
		return fmt.Sprintf("%dd", d/day)
	case d >= 100*time.Hour:
		return fmt.Sprintf("%dd%dh", d/day, d%day/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	}
	unit := time.Nanosecond
	for ; d >= 1000*unit; unit *= 10 {
	}
	return d.Round(unit).String()
}

// elapsed is span without the fractions that would only flicker.
func elapsed(d time.Duration) string {
	if d >= time.Second {
		d = d.Truncate(time.Second)
	}
	return span(d)
}

// perSecond is at most six characters.
func perSecond(n float64) string {
	if n > 0 && n < 9.95 {
		return strconv.FormatFloat(n, 'f', 1, 64)
	}
	return octets(n)
}

// address fits into width: whole, its port alone where there is little room, or without its beginning.
func address(a netip.AddrPort, width int) string {
	if !a.IsValid() {
		return unknown
	}
	s := a.String()
	switch {
	case len(s) <= width:
		return s
	case width < len("1.2.3.4:12345"):
		return fmt.Sprintf(":%d", a.Port())
	}
	return "…" + s[len(s)-width+1:]
}

// name fits into width: of service/process[pid] the service goes first, then the end of the process.
func name(c *connection, width int) string {
	whole := c.owner()
	if ansi.StringWidth(whole) <= width {
		return whole
	}
	short := strings.TrimPrefix(whole, c.service+"/")
	pid := fmt.Sprintf("…[%d]", c.pid)
	if ansi.StringWidth(short) <= width || c.pid == 0 || ansi.StringWidth(pid) > width {
		return ansi.Truncate(short, width, "…")
	}
	return ansi.Truncate(short, width-ansi.StringWidth(pid), "") + pid
}

// cell is s in just width columns.
func cell(s string, width int, right bool) string {
	s = ansi.Truncate(s, width, "…")
	pad := fmt.Sprintf("%*s", width-ansi.StringWidth(s), "")
	if right {
		return pad + s
	}
	return s + pad
}
