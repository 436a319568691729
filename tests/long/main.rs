//! The long run: mixed load with reloads, drains, killed servers and new certificates, against the real binary. What it
//! takes must level out, and come back when all have left; no message is lost, no reload and no handshake fails.
//!
//! `cargo test --test long` runs half a minute of it; `TIDEGATE_LONG=20`, or `tests/run long`, twenty minutes. Both leave
//! `target/long/long.svg` and `long.csv`.

#[path = "../support/mod.rs"]
mod support;

mod chart;
mod course;
mod level;
mod load;
mod samples;
mod upstream;

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use chart::{Line, Panel, Row};
use course::{Course, Event, Happened, Pace, Servers};
use level::{Bound, trend};
use load::World;
use samples::Samples;
use support::admin::metrics;
use support::exposition::Exposition;
use support::gateway::{Gateway, folder};
use support::tls::Authority;

const MIB: f64 = 1024.0 * 1024.0;

/// How long, how often, how exact.
struct Form {
    minutes: Option<f64>,
    load: Duration,
    /// Between two samples.
    tick: Duration,
    pace: Pace,
    /// By how much more than its bound a series may grow: what fills needs more than half a minute.
    slack: f64,
    /// How many times as many clients.
    crowd: u32,
}

impl Form {
    fn asked() -> Form {
        let seconds = Duration::from_secs;
        match std::env::var("TIDEGATE_LONG").map(|minutes| minutes.parse::<f64>().expect("a number of minutes")) {
            Ok(minutes) => Form {
                minutes: Some(minutes),
                load: Duration::from_secs_f64(minutes * 60.0),
                tick: seconds(1),
                pace: Pace { reload: seconds(5), drain: seconds(20), kill: seconds(60), rotate: seconds(240) },
                slack: 1.0,
                crowd: 2,
            },
            Err(_) => Form {
                minutes: None,
                load: seconds(14),
                tick: Duration::from_millis(250),
                pace: Pace { reload: seconds(1), drain: seconds(4), kill: seconds(7), rotate: seconds(5) },
                slack: 10.0,
                crowd: 1,
            },
        }
    }
}

/// What has to level out, how many seconds it takes to fill at most, and within which bound it stays then: rates are full again
/// after 3 s and swept every 10 s, ids of Socket.IO after 5 minutes. The three with a wide bound follow how many come in a
/// second, and so how busy the machine is; one that forgot nobody would be at a multiple.
#[rustfmt::skip]
const BOUNDS: [(&str, f64, Bound); 12] = [
    ("resident_bytes",          4.0, Bound { share: 0.02, absolute: MIB }),
    ("descriptors",             4.0, Bound { share: 0.02, absolute: 8.0 }),
    ("threads",                 4.0, Bound { share: 0.02, absolute: 2.0 }),
    ("sessions",                4.0, Bound { share: 0.02, absolute: 8.0 }),
    ("connections",             4.0, Bound { share: 0.02, absolute: 8.0 }),
    ("held_bytes",              4.0, Bound { share: 0.02, absolute: MIB }),
    ("clients_with_sessions",   4.0, Bound { share: 0.02, absolute: 8.0 }),
    ("clients_with_rates",     30.0, Bound { share: 0.30, absolute: 20.0 }),
    ("sticky_sessions",       310.0, Bound { share: 0.30, absolute: 20.0 }),
    ("series",                  4.0, Bound { share: 0.02, absolute: 2.0 }),
    ("servers",                 4.0, Bound { share: 0.02, absolute: 2.0 }),
    ("cpu_percent",             4.0, Bound { share: 0.30, absolute: 2.0 }),
];

/// Stops the others when one fails.
struct StopWhenFailed<'a>(&'a World);

impl Drop for StopWhenFailed<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.stop.store(true, Ordering::SeqCst);
        }
    }
}

#[test]
fn memory_descriptors_and_entries_level_out() {
    let form = Form::asked();
    let authority = Authority::new("the long run");
    let folder = folder();
    course::certify(&authority, &folder);
    let servers = Servers::start();
    let gateway = Gateway::start_in(folder, &servers.config(0), "exec \"$0\" \"$@\"");
    let [plain, secure] = gateway.addresses()[..2] else { panic!("two listeners") };
    let world =
        World { plain, secure, trust: authority.client(None), stop: Default::default(), counts: Default::default() };

    let began = Instant::now();
    let mut samples = Samples::new(began);
    samples.take(&gateway);
    let happened = Happened::default();
    let mut course = Course { gateway: &gateway, world: &world, authority: &authority, servers, began, happened };
    let (mut loaded, mut left) = (0, Duration::ZERO);
    let failed = thread::scope(|scope| {
        let mut threads = Vec::new();
        let (world, crowd) = (&world, form.crowd);
        let mut run = |client: Box<dyn FnOnce() + Send>| {
            threads.push(scope.spawn(move || {
                let _stop = StopWhenFailed(world);
                client();
            }));
        };
        (0..24 * crowd).for_each(|client| run(Box::new(move || load::steady(world, client))));
        (1000..1000 + 24 * crowd).for_each(|client| run(Box::new(move || load::moving(world, client))));
        (2000..2000 + 12 * crowd).for_each(|client| run(Box::new(move || load::member(world, client))));
        (0..3 * crowd).for_each(|number| run(Box::new(move || load::churn(world, number))));
        (0..2 * crowd).for_each(|number| run(Box::new(move || load::pages(world, number))));
        (0..6 * crowd).for_each(|number| run(Box::new(move || load::events(world, number))));
        run(Box::new(move || load::quiet(world, 100 * crowd * crowd)));
        run(Box::new(move || load::rude(world)));
        let (course, pace) = (&mut course, &form.pace);
        run(Box::new(move || course.run(pace)));
        samples.take_until(&gateway, form.tick, || world.stopped() || began.elapsed() >= form.load);
        world.stop.store(true, Ordering::SeqCst);
        loaded = samples.len();
        left = began.elapsed();
        samples.take_until(&gateway, form.tick, || threads.iter().all(|thread| thread.is_finished()));
        threads.into_iter().map(|thread| thread.join()).filter(Result::is_err).count()
    });
    // What is remembered of those who left goes within 3 s, when their rates are full again, and the next sweep.
    let is_over = |samples: &Samples| {
        is_at_rest(samples) && (form.minutes.is_none() || began.elapsed() > left + Duration::from_secs(45))
    };
    while !is_over(&samples) && began.elapsed() < left + Duration::from_secs(60) {
        thread::sleep(form.tick);
        samples.take(&gateway);
    }

    write(&form, &samples, &course.happened, left);
    assert_eq!(failed, 0, "clients and operators that failed: see above");
    report(&world, &course.happened);
    check_levels(&samples, loaded, form.slack);
    assert!(is_at_rest(&samples), "all have left, and this is still there: {}", samples.last_line());
    course::look_through(&gateway.directory.join("gateway.log"));
    assert!(!gateway.output().contains("panicked"), "{}", gateway.output());
    let found = Exposition::parse(&metrics(gateway.admin()));
    assert_eq!(found.sum("tidegate_config_reloads_total", &[("outcome", "failed")]), 0.0);
    for cause in ["slow_consumer", "client_lost", "upstream_lost", "frame_too_big", "protocol_error", "drain"] {
        assert!(found.sum("tidegate_sessions_ended_total", &[("cause", cause)]) > 0.0, "no session ended for {cause}");
    }
}

/// Nothing is left of those who came, and no more than there was before them.
fn is_at_rest(samples: &Samples) -> bool {
    let before = |name| samples.column(name)[0];
    let last = |name| samples.column(name).last().copied().expect("one at least");
    let empty = ["sessions", "connections", "pending", "held_bytes", "clients_with_sessions", "clients_with_rates"];
    empty.into_iter().all(|name| last(name) == 0.0)
        && ["descriptors", "servers"].into_iter().all(|name| last(name) <= before(name))
}

/// Prints the table and fails where something grows on.
fn check_levels(samples: &Samples, loaded: usize, slack: f64) {
    println!("\n| | level | drift | allowed | at the end |\n|---|---:|---:|---:|---:|");
    let mut growing = Vec::new();
    let third = samples.column("seconds")[loaded - 1] / 3.0;
    for (name, fills, bound) in BOUNDS {
        let column = samples.column(name);
        let trend = trend(&column[..loaded]);
        let (unit, words) = if name.ends_with("_bytes") { (MIB, " MiB") } else { (1.0, "") };
        let bound = bound.times(slack);
        let (level, drift, last) = (trend.level / unit, trend.drift / unit, column[column.len() - 1] / unit);
        println!("| {name} | {level:.1}{words} | {drift:+.2} | {:.2} | {last:.1} |", bound.of(trend.level) / unit);
        // In a run too short for it nothing can be said.
        if !bound.holds(trend) && fills <= third {
            growing.push(format!("{name}: {level:.1}{words}, and {drift:+.2} in the last two thirds"));
        }
    }
    assert!(growing.is_empty(), "what grows: {growing:#?}");
}

fn report(world: &World, happened: &Happened) {
    let counts = &world.counts;
    let of = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::SeqCst);
    println!(
        "{} reloads, {} of them with a new certificate; {} drains, {} servers killed, {} logs rotated",
        happened.count(Event::Reload) + happened.count(Event::Certificate),
        happened.count(Event::Certificate),
        happened.count(Event::Drain),
        happened.count(Event::Kill),
        happened.count(Event::Rotation)
    );
    println!(
        "{} sessions, {} messages checked, {} events, {} requests",
        of(&counts.sessions),
        of(&counts.messages),
        of(&counts.events),
        of(&counts.requests)
    );
    println!(
        "{} sessions moved by drains, {} messages crossed the Close; {} lost their server, and {} messages with it; {} answers of 502",
        of(&counts.moved),
        of(&counts.crossed),
        of(&counts.bereft),
        of(&counts.lost),
        of(&counts.refused)
    );
    assert!(of(&counts.moved) > 0 && of(&counts.bereft) > 0, "drains and kills meet sessions");
    // A server that was killed is put aside after two failures.
    assert!(
        of(&counts.refused) <= 10 * happened.count(Event::Kill) as u64,
        "{} handshakes failed",
        of(&counts.refused)
    );
}

/// `target/long/`, however the run went.
fn write(form: &Form, samples: &Samples, happened: &Happened, left: Duration) {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).parent().expect("target").join("long");
    std::fs::create_dir_all(&folder).expect("made");
    samples.write(&folder.join("long.csv"));
    let title = match form.minutes {
        Some(minutes) => format!("{minutes} minutes of mixed load"),
        None => "The short form".to_owned(),
    };
    std::fs::write(folder.join("long.svg"), draw(&title, samples, happened, left)).expect("written");
    println!("{}", folder.join("long.svg").display());
}

fn draw(title: &str, samples: &Samples, happened: &Happened, left: Duration) -> String {
    let scaled = |column, unit: f64| samples.column(column).iter().map(|value| value / unit).collect();
    let line = |name, column| Line { name, values: scaled(column, 1.0) };
    let panels = [
        Panel { title: "Resident memory, MiB", lines: vec![Line { name: "", values: scaled("resident_bytes", MIB) }] },
        Panel {
            title: "Sessions, connections of clients, descriptors",
            lines: vec![
                line("sessions", "sessions"),
                line("connections", "connections"),
                line("descriptors", "descriptors"),
            ],
        },
        Panel {
            title: "Clients that limits and upstreams remember",
            lines: vec![
                line("with sessions", "clients_with_sessions"),
                line("with rates", "clients_with_rates"),
                line("sticky", "sticky_sessions"),
            ],
        },
        Panel { title: "Series of /metrics", lines: vec![line("", "series")] },
        Panel {
            title: "Servers that they name, threads",
            lines: vec![line("servers", "servers"), line("threads", "threads")],
        },
        Panel {
            title: "Bytes held for slow peers, KiB",
            lines: vec![Line { name: "", values: scaled("held_bytes", 1024.0) }],
        },
        Panel { title: "Processor, % of one", lines: vec![line("", "cpu_percent")] },
        Panel { title: "Messages relayed, a second", lines: vec![line("", "messages_per_second")] },
    ];
    let row = |name, event| Row { name, spans: happened.spans(event) };
    let rows = [
        row("reload", Event::Reload),
        row("certificate", Event::Certificate),
        row("drain", Event::Drain),
        row("kill", Event::Kill),
        row("log", Event::Rotation),
    ];
    chart::draw(title, samples.column("seconds"), &panels, &rows, &[(left.as_secs_f64(), "all leave")])
}
