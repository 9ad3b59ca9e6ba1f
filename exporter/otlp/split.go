package otlp

// split returns data cut into parts that are at most limit bytes in protobuf, or a single item. It
// leaves data as it is.
func (s *signal[T]) split(data T, limit int) []T {
	n := s.count(data)
	if n < 2 || s.size(data) <= limit {
		return []T{data}
	}
	return append(s.split(s.part(data, 0, n/2), limit), s.split(s.part(data, n/2, n), limit)...)
}

// part returns a copy of the items [from, to) of data, each under its resource and scope.
func (s *signal[T]) part(data T, from, to int) T {
	out := s.empty()
	s.copy(data, out)
	i := 0
	s.prune(out, func() bool {
		i++
		return i <= from || i > to
	})
	return out
}

// slice is a plog.LogRecordSlice or its like.
type slice[E any] interface {
	RemoveIf(drop func(E) bool)
	Len() int
}

// prune removes from s what drop says, and tells whether nothing is left.
func prune[E any](s slice[E], drop func(E) bool) bool {
	s.RemoveIf(drop)
	return s.Len() == 0
}
