package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// A plot is what bench/plot, a module of its own, draws.
type plot struct {
	Title, X, Y string
	LogX        bool
	Lines       []line
}

// A line is of points, x and y.
type line struct {
	Name   string
	Points [][2]float64
}

// add adds a point to the line with that name.
func (p *plot) add(name string, x, y float64) {
	i := slices.IndexFunc(p.Lines, func(l line) bool { return l.Name == name })
	if i < 0 {
		i = len(p.Lines)
		p.Lines = append(p.Lines, line{Name: name})
	}
	p.Lines[i].Points = append(p.Lines[i].Points, [2]float64{x, y})
}

// file is the name of the plot's file.
func (p *plot) file() string { return strings.ReplaceAll(strings.ToLower(p.Title), " ", "-") + ".svg" }

// draw writes the plot as SVG into a directory.
func (p *plot) draw(ctx context.Context, dir string) error {
	file, err := filepath.Abs(filepath.Join(dir, p.file()))
	if err != nil {
		return err
	}
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "run", "-C", "bench/plot", ".", file)
	cmd.Stdin = bytes.NewReader(b)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("drawing %s: %w: %s", file, err, out)
	}
	return nil
}
