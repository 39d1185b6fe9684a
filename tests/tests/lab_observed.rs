//! What Prometheus, promtool and Grafana make of a running cluster.

use dts_tests::cluster::{settle, until};
use dts_tests::lab::{Lab, Running, Setup};
use dts_tests::suite::{self, Group};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

const SETUP: Setup = Setup {
    prefix: "dtsp",
    nodes: 3,
    // Where Prometheus reaches them: over the wire, and through the data plane.
    overlay: "METRICS=0.0.0.0\nHEALTH=tcp\n",
    client: env!("CARGO_BIN_EXE_labclient"),
    scratch: env!("CARGO_TARGET_TMPDIR"),
};
/// Prometheus and its addresses in the client's namespace.
const AT: &str = "127.0.0.1:9090";

fn main() -> ExitCode {
    suite::main(vec![Group {
        setup: SETUP,
        suffix: "",
        cases: vec![],
        once: vec![
            ("the_metrics_are_well_formed", the_metrics_are_well_formed),
            (
                "the_metrics_are_those_of_before",
                the_metrics_are_those_of_before,
            ),
            (
                "rules_and_dashboard_name_metrics_that_there_are",
                rules_and_dashboard_name_metrics_that_there_are,
            ),
            ("each_alert_is_tried_out", each_alert_is_tried_out),
            (
                "prometheus_scrapes_and_alerts",
                prometheus_scrapes_and_alerts,
            ),
        ],
    }])
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(path: &str) -> String {
    let path = repository().join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn promtool(arguments: &[&str], input: &str) -> String {
    let mut child = Command::new("promtool")
        .args(arguments)
        .current_dir(repository().join("deploy/prometheus"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input.as_bytes()).expect("promtool reads");
    drop(stdin);
    let out = child.wait_with_output().expect("promtool ends");
    let said = [out.stdout, out.stderr].map(|b| String::from_utf8_lossy(&b).into_owned());
    assert!(out.status.success(), "{arguments:?}: {said:?}");
    said.concat()
}

fn the_metrics_are_well_formed(lab: &Lab) {
    let text = lab.metrics_text(1);
    let said = promtool(&["check", "metrics"], &text);
    assert!(said.trim().is_empty(), "{said}");
}

/// HELP and TYPE of every metric, in order.
fn described(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().filter(|l| l.starts_with('#')).collect();
    lines.sort_by_key(|l| l.split(' ').nth(2));
    lines.join("\n") + "\n"
}

/// Names, kinds and words are what dashboards and people go by: a change shows here.
fn the_metrics_are_those_of_before(lab: &Lab) {
    let path = repository().join("tests/golden/metrics.txt");
    let found = described(&lab.metrics_text(1));
    if std::env::var_os("DTS_UPDATE_GOLDEN").is_some() {
        fs::write(&path, &found).expect("a writable repository");
        panic!("{} was written: review it", path.display());
    }
    let wanted = fs::read_to_string(&path).expect("it is there");
    let lines = |t: &str| -> BTreeSet<String> { t.lines().map(str::to_owned).collect() };
    let (f, w) = (lines(&found), lines(&wanted));
    let (new, gone): (Vec<_>, Vec<_>) = (f.difference(&w).collect(), w.difference(&f).collect());
    assert!(
        found == wanted,
        "new: {new:#?}, gone: {gone:#?}; DTS_UPDATE_GOLDEN=1 writes the file anew"
    );
}

/// Words that begin like a metric or a recording rule of ours.
fn metric_names(expression: &str) -> BTreeSet<String> {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let words = expression.split(|c| !part(c));
    let ours = |w: &&str| w.starts_with("dts_") || (w.contains(":dts_") && !w.starts_with(':'));
    words.filter(ours).map(str::to_owned).collect()
}

fn rules_and_dashboard_name_metrics_that_there_are(lab: &Lab) {
    let exposed = lab.metrics_text(1);
    let mut known: BTreeSet<String> = BTreeSet::new();
    for line in exposed.lines().filter(|l| l.starts_with("# TYPE ")) {
        let words: Vec<&str> = line.split(' ').collect();
        known.insert(words[2].to_owned());
        if words[3] == "histogram" {
            known.extend(["_bucket", "_sum", "_count"].map(|end| words[2].to_owned() + end));
        }
    }
    let rules = text("deploy/prometheus/dts-rules.yaml");
    let records = rules
        .lines()
        .filter_map(|l| l.trim().strip_prefix("- record: "));
    let records: Vec<String> = records.map(str::to_owned).collect();
    assert!(records.len() > 5);
    known.extend(records);
    let of_rules = metric_names(&rules);
    let dashboard: Value = serde_json::from_str(&text("deploy/grafana/dts.json")).expect("JSON");
    let mut of_dashboard = BTreeSet::new();
    let mut panels = 0;
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            panels += 1;
            let expression = target["expr"].as_str().expect("an expression");
            of_dashboard.extend(metric_names(expression));
        }
    }
    assert!(panels > 15 && of_dashboard.len() > 15 && of_rules.len() > 15);
    let unknown: Vec<_> = of_rules
        .union(&of_dashboard)
        .filter(|n| !known.contains(*n))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

fn each_alert_is_tried_out(_: &Lab) {
    for arguments in [
        &["check", "config", "prometheus.yaml"][..],
        &["check", "rules", "dts-rules.yaml"],
        &["test", "rules", "dts-rules-test.yaml"],
    ] {
        promtool(arguments, "");
    }
    let (rules, tests) = (
        text("deploy/prometheus/dts-rules.yaml"),
        text("deploy/prometheus/dts-rules-test.yaml"),
    );
    let runbook = text("docs/runbook.md");
    let alerts = || {
        rules
            .lines()
            .filter_map(|l| l.trim().strip_prefix("- alert: "))
    };
    for alert in alerts() {
        assert!(runbook.contains(&format!("\n## {alert}\n")), "{alert}");
    }
    let untried: Vec<&str> = alerts()
        .filter(|a| tests.matches(&format!("alertname: {a}\n")).count() == 0)
        .collect();
    assert!(untried.is_empty(), "no test: {untried:?}");
}

/// Prometheus in the client's namespace, over the lab's nodes.
fn prometheus(lab: &Lab) -> (Running, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let targets: Vec<String> = lab
        .nodes()
        .map(|n| format!("\"{}.{n}:9464\"", lab.fact("WIRE_NET")))
        .collect();
    let rules = repository().join("deploy/prometheus/dts-rules.yaml");
    let config = format!(
        "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\n\
         rule_files: [\"{}\"]\n\
         scrape_configs:\n  - job_name: dts\n    static_configs: [{{ targets: [{}] }}]\n",
        fs::canonicalize(rules).expect("it is there").display(),
        targets.join(", ")
    );
    let file = dir.path().join("prometheus.yaml");
    fs::write(&file, config).expect("a file");
    lab.exec("client", &["ip", "link", "set", "lo", "up"]);
    let (file, data) = (
        format!("--config.file={}", file.display()),
        format!("--storage.tsdb.path={}", dir.path().join("data").display()),
    );
    let listen = format!("--web.listen-address={AT}");
    let running = lab.spawn(
        "client",
        &["prometheus", "--log.level=error", &file, &data, &listen],
    );
    (running, dir)
}

/// The value of each instance; empty while there is none.
fn query(lab: &Lab, expression: &str) -> Vec<(String, f64)> {
    let url = format!("http://{AT}/api/v1/query");
    let expression = format!("query={expression}");
    let out = lab.try_exec(
        "client",
        &[
            "curl",
            "-s",
            "-m",
            "5",
            "-G",
            &url,
            "--data-urlencode",
            &expression,
        ],
    );
    let answer: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
    let result = answer["data"]["result"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let one = |r: &Value| {
        let value = r["value"][1].as_str()?.parse().ok()?;
        Some((
            r["metric"]["instance"].as_str().unwrap_or("").to_owned(),
            value,
        ))
    };
    result.iter().filter_map(one).collect()
}

fn alerts(lab: &Lab, state: &str) -> BTreeSet<String> {
    let url = format!("http://{AT}/api/v1/alerts");
    let out = lab.try_exec("client", &["curl", "-s", "-m", "5", &url]);
    let answer: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
    let all = answer["data"]["alerts"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let of_state = all.iter().filter(|a| a["state"] == state);
    of_state
        .filter_map(|a| a["labels"]["alertname"].as_str().map(str::to_owned))
        .collect()
}

fn prometheus_scrapes_and_alerts(lab: &Lab) {
    settle(lab);
    let (_running, _dir) = prometheus(lab);
    until("three nodes are scraped", Duration::from_secs(30), || {
        query(lab, "up{job=\"dts\"} == 1").len() == 3
    });
    // Two scrapes before, so that there is something to compare with.
    until("two scrapes", Duration::from_secs(10), || {
        query(lab, "count_over_time(up[1m]) >= 2").len() == 3
    });
    let connections = lab.load(&["count=300", "threads=4", "path=/who/scraped-{}"]);
    lab.assert_answered(&connections, 300, None);
    let opened = "sum(increase(dts_connections_opened_total[1m]))";
    until("the load is seen", Duration::from_secs(20), || {
        query(lab, opened).first().is_some_and(|v| v.1 > 200.0)
    });
    until("it is recorded", Duration::from_secs(10), || {
        query(lab, "instance:dts_connections_opened:rate1m > 0").len() == 3
    });
    assert_eq!(alerts(lab, "firing"), BTreeSet::new());
    // A daemon that dies is told of by itself and by its peers.
    let killed = lab.killed(3, "dtsd");
    let wanted: BTreeSet<String> = ["DtsNodeDown", "DtsMemberMissing"]
        .map(str::to_owned)
        .into();
    until("the alerts fire", Duration::from_secs(60), || {
        alerts(lab, "firing").is_superset(&wanted)
    });
    drop(killed);
    until("they are over", Duration::from_secs(60), || {
        alerts(lab, "firing").is_disjoint(&wanted)
    });
    settle(lab);
}
