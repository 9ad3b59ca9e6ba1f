package watch

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"

	"github.com/connspan/connspan/exporter"
)

// view is everything that a frame shows: what is shown follows from it alone.
type view struct {
	width, height int
	now           time.Time    // when connections was made
	connections   []connection // all that are kept
	full          bool         // of open connections there may be more than these
	counters      counters
	rates         rates
	filter        Filter
	order         order
	top           int // the first row that is shown
	paused        bool
	typing        bool   // a filter
	typed         string // so far
	typedErr      error  // what is wrong with it
	message       string // the newest of the program's own

	rows []*connection // of connections: those that the filter chooses, in order
}

// counters are of the whole stream.
type counters struct {
	open                   int
	opened, closed, failed uint64
	lost, violations       uint64
}

func newCounters(s exporter.Stats) counters {
	return counters{
		open: s.Open, opened: s.Opened, closed: s.Closed + s.Synthesized, failed: s.Failed,
		lost: s.Lost + s.Unseen, violations: s.Violations,
	}
}

var (
	styleHead   = ansi.NewStyle().Bold()
	styleSorted = ansi.NewStyle().Bold().Underline(true)
	styleEnded  = ansi.NewStyle().Faint()
	styleFailed = ansi.NewStyle().ForegroundColor(ansi.Red)
	styleAlarm  = ansi.NewStyle().Bold().ForegroundColor(ansi.Red)
	styleNote   = ansi.NewStyle().ForegroundColor(ansi.Yellow)

	styles = [...]ansi.Style{opened: {}, closed: styleEnded, failed: styleFailed}
)

const (
	helpKeys  = "q quit  / filter  space pause  ←→ sort  r reverse  ↑↓ scroll"
	helpTyped = "enter keep  esc undo"
)

// arrange chooses and sorts the rows anew.
func (v *view) arrange() {
	v.rows = v.rows[:0]
	for i := range v.connections {
		if c := &v.connections[i]; v.filter.match(c) {
			v.rows = append(v.rows, c)
		}
	}
	v.order.sort(v.rows, v.now)
	v.scroll(0)
}

// scroll moves the rows by n, as far as there are some.
func (v *view) scroll(n int) {
	v.top = max(min(v.top+n, len(v.rows)-v.room()), 0)
}

// room is the number of rows that fit.
func (v *view) room() int {
	return max(v.height-len(v.head())-len(v.foot()), 0)
}

// frame is the screen's text: at most height lines of at most width columns.
func (v *view) frame() string {
	lines := slices.Concat(v.head(), v.body(), v.foot())
	lines = lines[:min(len(lines), v.height)]
	for i, line := range lines {
		lines[i] = ansi.Truncate(line, v.width, "…")
	}
	return strings.Join(lines, "\n")
}

// head is the totals, what is shown, and the names of the columns.
func (v *view) head() []string {
	lines := append(v.totals(), v.shown())
	var titles []string
	for _, p := range layout(v.width) {
		c, style := columns[p.column], styleHead
		title := c.title
		if p.column == v.order.column {
			style = styleSorted
			title += v.order.arrow()
		}
		if ansi.StringWidth(title) > p.width {
			title = c.title
		}
		titles = append(titles, style.Styled(cell(title, p.width, c.right)))
	}
	return append(lines, strings.Join(titles, " "))
}

func (o order) arrow() string {
	if o.descending {
		return "▼"
	}
	return "▲"
}

// totals takes as many lines as it needs: nothing of it may be missing.
func (v *view) totals() (lines []string) {
	s := v.counters
	line := ""
	for _, part := range []struct {
		text  string
		alarm bool
	}{
		{fmt.Sprintf("open %d", s.open), false},
		{"opened " + perSecond(v.rates.opened) + "/s", false},
		{"closed " + perSecond(v.rates.closed) + "/s", false},
		{"failed " + perSecond(v.rates.failed) + "/s", false},
		{fmt.Sprintf("lost %d", s.lost), s.lost > 0},
		{fmt.Sprintf("order violations %d", s.violations), s.violations > 0},
	} {
		text := part.text
		if part.alarm {
			text = styleAlarm.Styled(text)
		}
		switch {
		case line == "":
			line = text
		case ansi.StringWidth(line)+2+len(part.text) <= v.width:
			line += "  " + text
		default:
			lines = append(lines, line)
			line = text
		}
	}
	return append(lines, line)
}

// shown says which of the connections are on the screen.
func (v *view) shown() string {
	var parts []string
	if v.paused {
		parts = append(parts, styleNote.Styled("PAUSED"))
	}
	parts = append(parts, fmt.Sprintf("%d of %d shown", len(v.rows), len(v.connections)))
	if more := v.counters.open - len(v.connections); v.full && more > 0 {
		parts = append(parts, styleNote.Styled(fmt.Sprintf("%d more not kept", more)))
	}
	parts = append(parts, "by "+columns[v.order.column].name+" "+v.order.arrow())
	if f := v.filter.String(); f != "" {
		parts = append(parts, "filter "+f)
	}
	return strings.Join(parts, "  ")
}

// body is the rows that fit, and empty lines up to the foot.
func (v *view) body() []string {
	lines := make([]string, v.room())
	columns := layout(v.width)
	for i := range lines {
		if v.top+i < len(v.rows) {
			lines[i] = v.row(v.rows[v.top+i], columns)
		}
	}
	return lines
}

func (v *view) row(c *connection, layout []placed) string {
	cells := make([]string, len(layout))
	for i, p := range layout {
		column := columns[p.column]
		cells[i] = cell(column.text(c, p.width, v.now), p.width, column.right)
	}
	return styles[c.state].Styled(strings.TrimRight(strings.Join(cells, " "), " "))
}

// foot is the newest message, if there is one, and the keys or the filter that is being typed.
func (v *view) foot() (lines []string) {
	if v.message != "" {
		lines = append(lines, styleNote.Styled(v.message))
	}
	if !v.typing {
		return append(lines, styleEnded.Styled(helpKeys))
	}
	prompt := "/" + v.typed
	// Its end is where the typing is.
	if over := ansi.StringWidth(prompt) + 1 - v.width; over > 0 {
		prompt = ansi.TruncateLeft(prompt, over, "")
	}
	prompt += ansi.NewStyle().Reverse(true).Styled(" ")
	if v.typedErr != nil {
		return append(lines, prompt+"  "+styleAlarm.Styled(v.typedErr.Error()))
	}
	return append(lines, prompt+"  "+styleEnded.Styled(helpTyped))
}
