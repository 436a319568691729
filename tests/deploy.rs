//! The files of deploy/ agree with the configuration, and with each other. Nothing here starts a service.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tidegate::config::model::{Config, ListenerAddress};
use tidegate::config::{self, Loaded};
use yaml_rust2::{Yaml, YamlLoader};

fn text(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn parsed(text: &str, admin: &str) -> Loaded {
    let environment = |name: &str| (name == "TIDEGATE_ADMIN").then(|| admin.to_owned());
    config::parse_with(text, &PathBuf::from("config.toml"), &environment, &|_| None)
        .unwrap_or_else(|problems| panic!("{problems}"))
}

/// The values of a key in a unit, in their order.
fn values(unit: &str, key: &str) -> Vec<String> {
    let lines = unit.lines().filter_map(|line| line.split_once('='));
    lines.filter(|(found, _)| *found == key).map(|(_, value)| value.to_owned()).collect()
}

fn value(unit: &str, key: &str) -> String {
    let mut values = values(unit, key);
    assert_eq!(values.len(), 1, "{key}");
    values.remove(0)
}

fn seconds(text: &str) -> Duration {
    Duration::from_secs(text.trim_end_matches('s').parse().expect("seconds"))
}

/// At most so long a stop takes.
fn stop(config: &Config) -> Duration {
    config.drain.grace
}

#[test]
fn the_sockets_are_the_listeners() {
    let socket = text("deploy/systemd/tidegate.socket");
    let loaded = parsed(&text("deploy/systemd/config.toml"), "127.0.0.1:9090");
    assert_eq!(loaded.warnings.len(), 0, "{:?}", loaded.warnings);
    let listeners: BTreeSet<String> = loaded.config.listeners.iter().map(|at| at.address.to_string()).collect();
    assert_eq!(BTreeSet::from_iter(values(&socket, "ListenStream")), listeners);
    assert_eq!(value(&socket, "BindIPv6Only"), "ipv6-only", "or [::]:80 and 0.0.0.0:80 collide");
    assert_eq!(value(&socket, "Service"), "tidegate@a.service");
}

#[test]
fn the_unit_gives_the_gateway_what_it_needs() {
    let unit = text("deploy/systemd/tidegate@.service");
    let loaded = parsed(&text("deploy/systemd/config.toml"), "127.0.0.1:9090");
    assert_eq!(value(&unit, "Sockets"), "tidegate.socket");
    assert_eq!(value(&unit, "Type"), "notify-reload");
    for key in ["ExecStart", "ExecReload"] {
        assert!(value(&unit, key).ends_with("--config /etc/tidegate/config.toml"), "{key}");
    }
    let patience = seconds(&value(&unit, "TimeoutStopSec"));
    assert!(patience > stop(&loaded.config) + Duration::from_secs(10), "it is killed before its drain is over");
    let limits = &loaded.config.limits;
    let descriptors: usize = value(&unit, "LimitNOFILE").parse().expect("a number");
    // The client's and the server's; connections that are no sessions; files, timers, the log.
    assert!(descriptors > limits.connections + limits.sessions + 1000, "{descriptors} descriptors");
    let log = loaded.config.log.file.expect("a file");
    assert_eq!(log.parent(), Some(Path::new("/var/log").join(value(&unit, "LogsDirectory")).as_path()));
    let rotation = text("deploy/systemd/tidegate.logrotate");
    assert!(rotation.contains(&format!("{} {{", log.display())) && rotation.contains("--signal=USR1"));
}

#[test]
fn the_two_instances_have_admin_addresses_of_their_own() {
    let addresses = ["a", "b"].map(|instance| {
        let environment = text(&format!("deploy/systemd/{instance}.env"));
        let address = value(&environment, "TIDEGATE_ADMIN");
        let loaded = parsed(&text("deploy/systemd/config.toml"), &address);
        loaded.config.admin.expect("an admin interface").address
    });
    assert_ne!(addresses[0], addresses[1]);
}

#[test]
fn older_systemd_has_another_way_to_reload() {
    let before = text("deploy/systemd/before-253.conf");
    assert_eq!(value(&before, "Type"), "notify");
    assert_eq!(value(&before, "ExecReload"), "/bin/kill -HUP $MAINPID");
}

fn manifest() -> Vec<Yaml> {
    YamlLoader::load_from_str(&text("deploy/kubernetes/tidegate.yaml")).expect("YAML")
}

fn of_kind(kind: &str) -> Yaml {
    let found = manifest().into_iter().find(|document| document["kind"].as_str() == Some(kind));
    found.unwrap_or_else(|| panic!("no {kind}"))
}

fn in_the_cluster() -> Loaded {
    let map = of_kind("ConfigMap");
    parsed(map["data"]["config.toml"].as_str().expect("a configuration"), "")
}

fn port(address: &ListenerAddress) -> i64 {
    match address {
        ListenerAddress::Tcp(address) => i64::from(address.port()),
        ListenerAddress::Unix(path) => panic!("{}: no port", path.display()),
    }
}

#[test]
fn the_pod_has_time_for_the_whole_drain() {
    let pod = &of_kind("Deployment")["spec"]["template"]["spec"];
    let config = in_the_cluster().config;
    let period = pod["terminationGracePeriodSeconds"].as_i64().expect("a number");
    let before = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"].as_i64().expect("a number");
    let period = Duration::from_secs(period as u64);
    let needed = stop(&config) + Duration::from_secs(before as u64);
    assert!(period > needed + Duration::from_secs(5), "{period:?} for {needed:?}");
}

#[test]
fn probes_ask_the_admin_interface_and_services_the_listener() {
    let loaded = in_the_cluster();
    assert_eq!(loaded.warnings.len(), 0, "{:?}", loaded.warnings);
    let config = loaded.config;
    let deployment = of_kind("Deployment");
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    let ports = container["ports"].as_vec().expect("ports");
    let named = |name: &str| {
        let port = ports.iter().find(|port| port["name"].as_str() == Some(name));
        port.unwrap_or_else(|| panic!("no port {name}"))["containerPort"].as_i64().expect("a number")
    };
    let admin = config.admin.expect("an admin interface");
    assert_eq!(named("admin"), port(&admin.address));
    assert_eq!(named("web"), port(&config.listeners[0].address));
    for (probe, path) in [("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")] {
        let get = &container[probe]["httpGet"];
        assert_eq!((get["path"].as_str(), get["port"].as_str()), (Some(path), Some("admin")), "{probe}");
    }
    let service = of_kind("Service");
    assert_eq!(service["spec"]["ports"][0]["targetPort"].as_str(), Some("web"));
    let (labels, selector) = (&deployment["spec"]["template"]["metadata"]["labels"], &service["spec"]["selector"]);
    assert_eq!(labels, selector);
    assert_eq!(&of_kind("PodDisruptionBudget")["spec"]["selector"]["matchLabels"], selector);
}

#[test]
fn the_pod_has_no_privileges() {
    let deployment = of_kind("Deployment");
    let pod = &deployment["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(pod["securityContext"]["runAsNonRoot"].as_bool(), Some(true));
    assert_eq!(pod["automountServiceAccountToken"].as_bool(), Some(false));
    assert_eq!(container["securityContext"]["allowPrivilegeEscalation"].as_bool(), Some(false));
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"].as_bool(), Some(true));
    assert_eq!(container["securityContext"]["capabilities"]["drop"][0].as_str(), Some("ALL"));
    let user = pod["securityContext"]["runAsUser"].as_i64().expect("a number");
    assert!(text("deploy/Dockerfile").contains(&format!("USER {user}:{user}")));
}

/// One instruction on a line, as Docker joins them.
fn instructions(file: &str) -> Vec<(String, String)> {
    let joined = text(file).replace("\\\n", " ");
    let lines = joined.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let split = |line: &str| line.split_once(' ').map(|(word, rest)| (word.to_owned(), rest.to_owned()));
    lines.map(|line| split(line).unwrap_or_else(|| panic!("{file}: {line}"))).collect()
}

#[test]
fn the_image_runs_as_nobody_and_holds_nothing_but_the_binary() {
    let all = instructions("deploy/Dockerfile");
    let known = ["FROM", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD"];
    assert!(all.iter().all(|(word, _)| known.contains(&word.as_str())), "{all:?}");
    let last = all.iter().rposition(|(word, _)| word == "FROM").expect("a FROM");
    let image = &all[last..];
    assert!(image[0].1.contains("distroless") && image[0].1.ends_with(":nonroot"), "{:?}", image[0]);
    let of =
        |word: &str| image.iter().filter(|(found, _)| found == word).map(|(_, rest)| rest.as_str()).collect::<Vec<_>>();
    assert_eq!(of("COPY"), ["--from=build /tidegate /usr/local/bin/tidegate"]);
    assert_eq!(of("RUN"), [""; 0], "there is no shell");
    assert_eq!(of("STOPSIGNAL"), ["SIGTERM"]);
    for word in ["ENTRYPOINT", "CMD"] {
        let parts: Vec<String> = serde_json::from_str(of(word)[0]).expect("the form without a shell");
        assert!(!parts.is_empty());
    }
    let ports: Vec<i64> = of("EXPOSE")[0].split(' ').map(|port| port.parse().expect("a port")).collect();
    let config = in_the_cluster().config;
    assert_eq!(ports, [port(&config.listeners[0].address), port(&config.admin.expect("admin").address)]);
    let wanted = text(".dockerignore");
    for needed in ["src", "benches", "Cargo.toml", "Cargo.lock", "config.toml", ".cargo"] {
        assert!(wanted.lines().any(|line| line == format!("!{needed}")), "{needed} is not in the image's sources");
    }
}
