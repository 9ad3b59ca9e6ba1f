/*
 * The order of events: programs on many CPUs stamp and submit, one reader releases.
 *
 * Without any of its mutants (-DNAME) this is the protocol. README.md says what they are,
 * what is abstracted and why that is sound, and how to read a counter-example.
 */
#ifndef CPUS
#define CPUS 2		/* possible CPUs; the last one is offline at first */
#endif
#ifndef PROGRAMS
#define PROGRAMS 2	/* overlapping programs on each CPU, one event each */
#endif
#ifndef ROUNDS
#define ROUNDS 3	/* of the reader: at any time, but the last when all programs are done */
#endif
#ifndef TICKS
#define TICKS 1		/* of the clock from one reading by the reader to the next, at most */
#endif
#ifndef SKEW
#define SKEW 0		/* how far a reading of the clock may step back */
#endif
#ifndef GUARD
#define GUARD (SKEW + 1)
#endif
#define EVENTS (CPUS * PROGRAMS)
#ifdef PROCESSES
#define RECORDS (2 * EVENTS)	/* before its event, each program tells of its process */
#else
#define RECORDS EVENTS
#endif

mtype = { none, reserved, submitted, held, over };

byte clock = GUARD + SKEW + 1;
byte ticks;			/* since the reader read the clock */
bool online;			/* the last CPU */

/* Shared by the programs of a CPU and the reader. */
byte in_flight[CPUS];
chan ring[CPUS] = [RECORDS / CPUS] of { byte };	/* in the order of their reserve */
byte lost[CPUS];				/* events for which reserve failed */

/* Where each record is (reserved: it is busy): first those of events, then those of processes. */
mtype stage[RECORDS] = none;
byte ts[EVENTS];	/* 0: not stamped, or over */

/* Known to the model alone: a bit for each program that runs, whatever in_flight says. */
byte running[CPUS];
byte finished;

/* The properties, as variables so that the checker names the one that is violated. */
bool never_late = true;	/* no event is drained with ts <= W of an earlier round */
bool in_order = true;	/* no event is released after one with a greater ts */
bool prompt = true;	/* a round that meets nothing in flight releases all that is older than its T - guard */
bool complete = true;	/* in the end every event has been released or counted as lost */

/*
 * Programs of one CPU nest: a higher context (softirq over process) interrupts a lower one
 * anywhere and runs to its end first. With PREEMPT they interleave in every way.
 */
#ifdef PREEMPT
#define runs	true
#else
#define runs	((running[cpu] >> (context + 1)) == 0)
#endif
#define starts	(runs && (online || cpu < CPUS - 1))

/* Time shows only where it is read, so it passes just before a reading, or does not: a tie. */
inline read_clock(reading, least)
{
	do
	:: ticks < TICKS -> ticks++; clock++
	:: ticks >= least -> break
	od;
	reading = clock;
#if SKEW
	if
	:: reading = clock - SKEW
	:: true
	fi
#endif
}

/* ---- kernel: a BPF program on its CPU, emit() in bpf/emit.h ---- */

#ifdef RELAXED
/* The announcement waits in the CPU's store buffer, past the clock read but not past a submit. */
byte buffered[CPUS];
#define flushed	(buffered[cpu] == 0)

active [CPUS] proctype store_buffer()
{
end:	do
	:: atomic {
		buffered[_pid] > 0 ->
		in_flight[_pid] = in_flight[_pid] + buffered[_pid];
		buffered[_pid] = 0;
		printf("cpu %d: announcement is visible\n", _pid)
	   }
	od
}
#else
#define flushed	true
#endif

inline enter()
{
	running[cpu] = running[cpu] | (1 << context)
}

inline leave()
{
	running[cpu] = running[cpu] & ~(1 << context);
	finished++
}

inline announce()	/* add_ordered(&cpu->in_flight, 1) */
{
#if defined(RELAXED)
	buffered[cpu]++;
#elif !defined(NO_ANNOUNCE)
	in_flight[cpu]++;
#endif
	printf("cpu %d.%d: announces\n", cpu, context)
}

inline stamp()		/* ts = bpf_ktime_get_ns() */
{
	read_clock(ts[event], 0);
	printf("cpu %d.%d: stamps %d\n", cpu, context, ts[event])
}

inline reserve(record)	/* bpf_ringbuf_reserve(): may find the ring full at any time */
{
	if
	:: stage[record] = reserved;
	   ring[cpu]!record;
	   printf("cpu %d.%d: reserves\n", cpu, context)
	:: stage[record] = over;
	   printf("cpu %d.%d: finds the ring full\n", cpu, context)
	fi
}

inline lose()		/* count(&cpu->ring_full) */
{
	ts[event] = 0;
	lost[cpu]++
}

inline submit(record)	/* bpf_ringbuf_submit(): clears the busy bit, with an xchg */
{
	stage[record] = submitted;
	printf("cpu %d.%d: submits\n", cpu, context)
}

inline withdraw()	/* add_ordered(&cpu->in_flight, -1) */
{
#ifndef NO_ANNOUNCE
	in_flight[cpu]--;
#endif
	printf("cpu %d.%d: withdraws\n", cpu, context)
}

#ifdef PROCESSES
#define process (EVENTS + event)

/* tell_process() in bpf/process.h: a record that nobody stamps. Events of others may come to lie behind it. */
inline tell()
{
#ifdef UNANNOUNCED
	atomic { starts -> enter(); reserve(process) };
#else
	atomic { starts -> enter(); announce() };
	atomic { runs -> reserve(process) };
#endif
	if
	:: atomic { runs && flushed && stage[process] == reserved -> submit(process) }
	:: atomic { runs && flushed && stage[process] == over }
	fi;
#ifndef UNANNOUNCED
	atomic { runs -> withdraw() }
#endif
}
#endif

/* One run of the program. Each atomic is one step: anything may happen between two of them. */
proctype program(byte cpu, context)
{
	byte event = cpu * PROGRAMS + context;

#ifdef PROCESSES
	tell();
#endif
#if defined(STAMP_FIRST)
	atomic { starts -> enter(); stamp() };
	atomic { runs -> announce() };
#elif defined(NON_ATOMIC)
	byte word;
	atomic { starts -> enter(); word = in_flight[cpu] };
	atomic { runs -> in_flight[cpu] = word; announce(); word = 0 };
	atomic { runs -> stamp() };
#else
	atomic { starts -> enter(); announce() };
	atomic { runs -> stamp() };
#endif
	atomic { runs -> reserve(event) };
	if
#ifdef WITHDRAW_FIRST
	:: atomic { runs && stage[event] == reserved -> withdraw() };
	   atomic { runs -> submit(event); leave() }
#else
	:: atomic { runs && flushed && stage[event] == reserved -> submit(event) };
	   atomic { runs -> withdraw(); leave() }
#endif
#ifdef LEAK
	:: atomic { runs && stage[event] == over -> lose(); leave() }
#else
	:: atomic { runs && flushed && stage[event] == over -> lose(); withdraw(); leave() }
#endif
	fi
}

/* The last CPU comes up at any time; its word and its ring are there from the start. */
proctype hotplug()
{
	atomic { online = true; printf("cpu %d: online\n", CPUS - 1) }
}

/* ---- user space: the reader, round() in exporter/exporter.go ---- */

inline take_now()	/* step 1, Tracer.Now: T = now, on the programs' clock */
{
	atomic { read_clock(T, 1); ticks = 0; printf("reader: T = %d\n", T) }
}

/* Step 2, Tracer.InFlight and Merge.Watermark: where nothing is in flight, nothing older than T can still come. */
inline watch()
{
	do
	:: atomic {
		quiet = quiet && running[c] == 0;
		idle = in_flight[c] == 0;
		printf("reader: cpu %d has %d in flight\n", c, in_flight[c]);
#ifdef T_LATE
	   };
	   take_now();
	   atomic {
#endif
		if
		:: idle -> watermark[c] = T
		:: else
		fi;
		idle = false;
		c++;
		if
		:: c == seen -> c = 0; break
		:: else
		fi
	   }
	od
}

inline drain()		/* step 3, Tracer.Drain and Merge.Push: each ring up to its end, or to a busy record */
{
	do
	:: atomic {
		do
		:: len(ring[c]) > 0 ->
			ring[c]?<e>;
			if
#ifdef PROCESSES
			:: stage[e] == submitted && e >= EVENTS ->
				ring[c]?e;
				stage[e] = over;
				printf("reader: drains a process from cpu %d\n", c)
			:: stage[e] == submitted && e < EVENTS ->
#else
			:: stage[e] == submitted ->
#endif
				ring[c]?e;
				stage[e] = held;
				printf("reader: drains %d from cpu %d\n", ts[e], c);
				never_late = ts[e] > W;
				assert(never_late)
			:: else -> break
			fi
		:: else -> break
		od;
		e = 0;
		c++;
		if
		:: c == seen ->
			c = 0;
#ifndef DRAIN_FIRST
			settle();	/* nobody sees it happen, so it is no step of its own */
#endif
			break
		:: else
		fi
	   }
	od
}

inline advance()	/* step 4, Merge.Release: W = min(watermark) - guard, and never back */
{
	low = T;
#if defined(RING_HEADS)
	low = clock + GUARD;	/* a CPU with an empty ring has no say: all that is held */
#elif !defined(SORT_TO_NOW)
	for (c : 0 .. seen - 1) {
		if
		:: watermark[c] < low -> low = watermark[c]
		:: else
		fi
	}
#endif
	last = W;
	if
	:: low > W + GUARD -> W = low - GUARD
	:: else
	fi;
	printf("reader: W = %d\n", W)
}

inline release()	/* step 4, Merge.Release: all that is held up to W, the oldest first */
{
	do
	:: true ->
		next = EVENTS;
		for (e : 0 .. EVENTS - 1) {
			if
#ifdef UNSORTED
			:: stage[e] == held && ts[e] <= W && next == EVENTS -> next = e
#else
			:: stage[e] == held && ts[e] <= W && (next == EVENTS || ts[e] < ts[next]) -> next = e
#endif
			:: else
			fi
		}
		if
		:: next == EVENTS -> break
		:: else ->
			printf("reader: releases %d\n", ts[next]);
			in_order = ts[next] >= last;
			assert(in_order);
			last = ts[next];
			stage[next] = over;
			ts[next] = 0;
			released++
		fi
	od
}

inline settle()
{
	d_step {
		advance();
		release();
#ifndef ORDER
		for (e : 0 .. EVENTS - 1) {
			prompt = !quiet || ts[e] == 0 || ts[e] + GUARD > T;
			assert(prompt)
		}
#endif
		T = 0; c = 0; e = 0; low = 0; next = 0; last = 0; quiet = true
	}
}

inline round()
{
#ifdef ONLINE_ONLY
	atomic { seen = CPUS - 1 + online; printf("reader: sees %d CPUs\n", seen) };
#endif
#ifndef T_LATE
	take_now();
#endif
#ifdef DRAIN_FIRST
	drain();
	watch();
	skip;		/* the end of a loop must not lead into a d_step */
	settle()
#else
	watch();
	drain()
#endif
}

proctype reader()
{
	byte T, W, watermark[CPUS] = GUARD;
	byte seen = CPUS, released;
	byte r, c, e, low, next, last;
	bool idle, quiet = true;

	for (r : 2 .. ROUNDS) {
		round()
	}
	atomic { finished == EVENTS -> clock = clock + GUARD + SKEW; printf("all programs are done\n") };
	round();
#ifndef ORDER
	atomic {
		for (c : 0 .. CPUS - 1) {
			released = released + lost[c]
		}
		complete = released == EVENTS;
		assert(complete)
	}
#endif
}

init {
	byte cpu, context;

	atomic {
		for (cpu : 0 .. CPUS - 1) {
			for (context : 0 .. PROGRAMS - 1) {
				run program(cpu, context)
			}
		}
		run hotplug();
		run reader()
	}
}
