// Plot draws lines: it reads them as JSON and writes SVG. It is a module of its own, so that the library
// that draws is no dependency of anything else.
//
//	go run -C bench/plot . FILE.svg <plot.json
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
)

// drawing is what is to be drawn.
type drawing struct {
	Title, X, Y string
	LogX        bool // the logarithm of X is drawn
	Lines       []struct {
		Name   string
		Points [][2]float64
	}
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "plot:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return errors.New("want one argument, the file to write")
	}
	var d drawing
	if err := json.NewDecoder(os.Stdin).Decode(&d); err != nil {
		return fmt.Errorf("reading what to draw: %w", err)
	}
	return d.draw(args[0])
}

func (d *drawing) draw(file string) error {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = d.Title, d.X, d.Y
	p.Y.Min = 0
	p.Title.Padding = vg.Points(8)
	p.Legend.Top, p.Legend.Left = true, true
	p.Legend.XOffs, p.Legend.YOffs, p.Legend.Padding = vg.Points(8), -vg.Points(4), vg.Points(2)
	if d.LogX {
		p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.TickerFunc(decades)
	}
	p.Add(plotter.NewGrid())
	for i, line := range d.Lines {
		points := make(plotter.XYs, len(line.Points))
		for j, at := range line.Points {
			points[j] = plotter.XY{X: at[0], Y: at[1]}
		}
		drawn, marks, err := plotter.NewLinePoints(points)
		if err != nil {
			return fmt.Errorf("drawing %s: %w", line.Name, err)
		}
		drawn.Color, marks.Color, marks.Shape = plotutil.Color(i), plotutil.Color(i), plotutil.Shape(i)
		p.Add(drawn, marks)
		if len(d.Lines) > 1 {
			p.Legend.Add(line.Name, drawn, marks)
		}
	}
	return p.Save(16*vg.Centimeter, 8*vg.Centimeter, file)
}

// decades are the ticks of a logarithmic axis, with their numbers written out.
func decades(low, high float64) []plot.Tick {
	ticks := plot.LogTicks{}.Ticks(low, high)
	for i := range ticks {
		if ticks[i].Label != "" {
			ticks[i].Label = fmt.Sprintf("%.0f", ticks[i].Value)
		}
	}
	return ticks
}
