//! How many workers run: what the file says, or what the system gives.

#![cfg(target_os = "linux")]

mod support;

use support::eventually;
use support::gateway::{Gateway, config, folder};

/// The line of start-up that tells the workers, of a gateway that one processor is given to.
fn told_on_one_processor(workers: &str) -> String {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).expect("a list");
    let first = allowed.trim().split([',', '-']).next().expect("at least one");
    let text = config("127.0.0.1:1".parse().expect("an address"), "", &format!("[runtime]\nworkers = {workers}\n"));
    let gateway = Gateway::start_in(folder(), &text, &format!("exec taskset -c {first} \"$0\" \"$@\""));
    let told = || gateway.output().lines().find(|line| line.starts_with("workers: ")).map(str::to_owned);
    eventually("the workers are told", || told().is_some());
    told().expect("it was there")
}

#[test]
fn auto_is_the_processors_that_the_process_may_use() {
    assert_eq!(told_on_one_processor("\"auto\""), "workers: 1 (auto)");
}

#[test]
fn a_number_is_taken_as_it_is() {
    assert_eq!(told_on_one_processor("3"), "workers: 3");
}
