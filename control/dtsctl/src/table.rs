//! Answers as tables for people.

use serde_json::Value;
use std::fmt::Write;

/// Lines of cells, each column as wide as its widest cell.
pub fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| {
        rows.iter()
            .filter_map(|r| r.get(c))
            .map(|t| t.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..count).map(|c| width(c).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A JSON value in a cell: `-` for nothing, strings without quotes.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        Value::Number(n) if n.is_f64() => format!("{:.2}", n.as_f64().unwrap_or(0.0)),
        other => other.to_string(),
    }
}

/// A list of objects, with the named fields as columns under these titles.
pub fn list(list: &Value, fields: &[(&str, &str)]) -> String {
    let mut rows = vec![
        fields
            .iter()
            .map(|(title, _)| (*title).to_owned())
            .collect(),
    ];
    for item in list.as_array().into_iter().flatten() {
        rows.push(
            fields
                .iter()
                .map(|(_, field)| cell(&item[*field]))
                .collect(),
        );
    }
    columns(&rows)
}

/// The whole of `dtsctl nodes`.
pub fn nodes(answer: &Value) -> String {
    let fields = [
        ("NODE", "id"),
        ("LINK", "link"),
        ("MEMBER", "member"),
        ("ON WIRE", "on_wire"),
        ("FOR MS", "since_ms"),
        ("STATE", "state"),
        ("WEIGHT", "weight"),
        ("SHARE", "share"),
        ("CONNECTIONS", "connections"),
        ("INCARNATION", "incarnation"),
        ("REJOINED", "generation"),
        ("VERSION", "version"),
        ("CONFIG", "config"),
        ("EPOCH", "epoch"),
    ];
    let mut text = list(&answer["nodes"], &fields);
    for service in answer["services"].as_array().into_iter().flatten() {
        if service["owners"].as_array().is_some_and(Vec::is_empty) {
            let name = cell(&service["name"]);
            let _ = writeln!(text, "no node takes new connections of service {name}");
        }
    }
    if !answer["superseded"].is_null() {
        text +=
            "others know of a later start of this node (its clock was set back): it owns nothing\n";
    } else if answer["minority"] == true {
        text += "this node lost more members at once than it still sees: it owns nothing\n";
    }
    text
}

/// The whole of `dtsctl status`.
pub fn status(s: &Value) -> String {
    let pairs = |object: &Value| {
        let pair = |(k, v): (&String, &Value)| format!("{k}={}", cell(v));
        object
            .as_object()
            .into_iter()
            .flatten()
            .map(pair)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let mut text = columns(&[
        vec!["node".into(), cell(&s["node"])],
        vec!["incarnation".into(), cell(&s["incarnation"])],
        vec!["ready".into(), cell(&s["ready"])],
        vec!["uptime".into(), format!("{} s", cell(&s["uptime_s"]))],
        vec!["flows".into(), pairs(&s["flows"])],
    ]);
    text.push('\n');
    let ports = [
        ("PORT", "port"),
        ("DEVICE", "device"),
        ("DRIVER", "driver"),
        ("QUEUES", "queues"),
        ("UP", "up"),
    ];
    text += &list(&s["ports"], &ports);
    text.push('\n');
    let workers = [("WORKER", "worker"), ("CORE", "core"), ("FLOWS", "flows")];
    text += &list(&s["workers"], &workers);
    text.push('\n');
    let mut rows = vec![
        [
            "SERVICE",
            "VIP",
            "PORT",
            "PROXY",
            "APPLICATION",
            "BUCKETS BY NODE",
        ]
        .map(String::from)
        .to_vec(),
    ];
    for service in s["services"].as_array().into_iter().flatten() {
        let mut row: Vec<String> = ["name", "vip", "port", "proxy_port", "application_port"]
            .map(|f| cell(&service[f]))
            .to_vec();
        row.push(pairs(&service["buckets"]));
        rows.push(row);
    }
    text += &columns(&rows);
    text.push('\n');
    let members = [
        ("MEMBER", "id"),
        ("LINK", "link"),
        ("STATE", "state"),
        ("INCARNATION", "incarnation"),
    ];
    text + &list(&s["members"], &members)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_line_up() {
        let value = json!([{ "a": "long text", "b": 1 }, { "a": null, "b": 1.25 }]);
        let text = list(&value, &[("A", "a"), ("BB", "b")]);
        assert_eq!(text, "A          BB\nlong text  1\n-          1.25\n");
    }

    #[test]
    fn nodes_show_shares_and_services_without_owner() {
        let text = nodes(&json!({
            "nodes": [{ "id": 3, "state": "active", "weight": 100, "share": 0.25 }],
            "services": [{ "name": "web", "owners": [] }, { "name": "mail", "owners": [3] }],
        }));
        assert!(text.contains("100     0.25"), "{text}");
        assert!(text.contains("no node takes new connections of service web\n"));
        assert!(!text.contains("mail"), "{text}");
    }

    #[test]
    fn a_status_shows_what_matters() {
        let text = status(&json!({
            "node": 3, "flows": { "served": 7 },
            "services": [{ "name": "web", "vip": "10.0.0.1", "port": 80, "proxy_port": null,
                "application_port": 8080, "buckets": { "1": 2000, "2": 2096 } }],
            "members": [{ "id": 2, "state": "dead", "incarnation": 1500 }],
        }));
        for part in [
            "served=7",
            "10.0.0.1  80    -",
            "1=2000 2=2096",
            "dead   1500",
        ] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
    }
}
