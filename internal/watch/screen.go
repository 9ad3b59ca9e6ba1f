package watch

import (
	"time"
	"unicode/utf8"

	tea "charm.land/bubbletea/v2"

	"github.com/connspan/connspan/exporter"
	"github.com/connspan/connspan/internal/event"
)

// maxTyped bounds the filter that is typed, in characters.
const maxTyped = 200

// screen is the view at work: it answers keys, sizes and ticks. Bubble Tea calls it from one goroutine.
type screen struct {
	view
	feed     *feed
	stats    func() (exporter.Stats, error)
	messages *messages
	before   Filter // the typing
	err      error  // ended it
}

// tick is when to look again.
type tick time.Time

func newScreen(f *feed, stats func() (exporter.Stats, error), filter Filter, messages *messages) *screen {
	return &screen{feed: f, stats: stats, messages: messages, view: view{filter: filter, order: order{column: columnAge}}}
}

// Init begins nothing: the ticks come from outside.
func (s *screen) Init() tea.Cmd { return nil }

// Update answers one message.
func (s *screen) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		s.width, s.height = msg.Width, msg.Height
		s.scroll(0)
	case tick:
		return s, s.refresh(time.Time(msg))
	case tea.PasteMsg:
		if s.typing {
			s.typeText(msg.Content)
		}
	case tea.KeyPressMsg:
		if s.typing {
			return s, s.typeKey(msg)
		}
		return s, s.press(msg.String())
	}
	return s, nil
}

// refresh looks again, unless it is paused; the counters and messages go on.
func (s *screen) refresh(now time.Time) tea.Cmd {
	s.message = s.messages.newest()
	stats, err := s.stats()
	if err != nil {
		s.err = err
		return tea.Quit
	}
	s.counters = newCounters(stats)
	s.rates.add(now, s.counters)
	if !s.paused {
		s.now = now
		s.connections, s.full = s.feed.copy(now, s.connections[:0])
		s.arrange()
	}
	return nil
}

// press answers a key that is no part of a filter.
func (s *screen) press(key string) tea.Cmd {
	switch key {
	case "q", "ctrl+c":
		return tea.Quit
	case "ctrl+z":
		return tea.Suspend
	case "space":
		s.paused = !s.paused
	case "/":
		s.typing, s.typed, s.before = true, s.filter.String(), s.filter
	case "esc":
		s.filter = Filter{}
	case "left", "<":
		s.order = s.order.choose(-1)
	case "right", ">":
		s.order = s.order.choose(1)
	case "r":
		s.order.descending = !s.order.descending
	default:
		s.scrollBy(key)
		return nil
	}
	s.arrange()
	return nil
}

func (s *screen) scrollBy(key string) {
	switch key {
	case "up", "k":
		s.scroll(-1)
	case "down", "j":
		s.scroll(1)
	case "pgup":
		s.scroll(-s.room())
	case "pgdown":
		s.scroll(s.room())
	case "home", "g":
		s.scroll(-len(s.rows))
	case "end", "G":
		s.scroll(len(s.rows))
	}
}

// typeKey answers a key while a filter is typed.
func (s *screen) typeKey(key tea.KeyPressMsg) tea.Cmd {
	switch key.String() {
	case "ctrl+c":
		return tea.Quit
	case "enter":
		s.typing, s.typedErr = false, nil
	case "esc":
		s.typing, s.typedErr, s.filter = false, nil, s.before
		s.arrange()
	case "backspace":
		_, size := utf8.DecodeLastRuneInString(s.typed)
		s.setTyped(s.typed[:len(s.typed)-size])
	case "ctrl+u":
		s.setTyped("")
	default:
		s.typeText(key.Text)
	}
	return nil
}

func (s *screen) typeText(text string) {
	if typed := s.typed + event.Printable(text); utf8.RuneCountInString(typed) <= maxTyped {
		s.setTyped(typed)
	}
}

// setTyped filters by what is typed so far; by what was before where that is not a whole filter yet.
func (s *screen) setTyped(typed string) {
	s.typed = typed
	var filter Filter
	if filter, s.typedErr = ParseFilter(typed); s.typedErr == nil {
		s.filter = filter
	}
	s.arrange()
}

// View gives Bubble Tea the frame to draw.
func (s *screen) View() tea.View {
	v := tea.NewView(s.frame())
	v.AltScreen = true
	return v
}
