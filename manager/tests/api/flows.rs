//! What a manager does, whatever keeps its data.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::Ordering;

use http::Method;
use serde_json::{Value, json};

use crate::home::{Caller, Home, Manager};

pub(crate) async fn the_first_start_makes_an_administrator_once_and_the_second_none(home: &Home) {
    let manager = Manager::start(home).await;
    let password = manager.password.clone().unwrap();
    assert_eq!(password.len(), 43);
    let admin = manager.admin().await;
    assert_eq!(
        admin.get("/api/v1/session").await.is(200),
        json!({ "name": "admin", "role": "admin", "token": false })
    );
    let cookie = admin.headers[0].1.clone();
    manager.stop().await;

    let manager = Manager::start(home).await;
    assert_eq!(manager.password, None);
    let same = Caller {
        manager: &manager,
        headers: vec![("cookie", cookie.clone())],
    };
    same.get("/api/v1/session").await.is(200);
    manager
        .session("admin", &password)
        .await
        .get("/api/v1/users")
        .await
        .is(200);
    manager.stop().await;
    if let Home::Folder(dir) = home {
        let session = cookie.split_once('=').unwrap().1;
        nothing_on_disk(&dir.path().join("folder"), &[&password, session]);
    }
}

/// Each route of the description is there, knows nobody without a credential, and lets through whom it says.
pub(crate) async fn every_route_is_as_it_is_described(home: &Home) {
    let manager = Manager::start(home).await;
    let admin = manager.admin().await;
    let (_, viewer) = admin.user("vera", "viewer").await;
    let (_, operator) = admin.user("otto", "operator").await;
    let new = json!({ "name": "all", "role": "admin", "lifetime": "1h" });
    let made = admin.post("/api/v1/tokens", new).await.is(201);
    let token = Caller::with_token(&manager, made["secret"].as_str().unwrap());
    let document = manager
        .send(Method::GET, "/api/v1/openapi.json", &[], None)
        .await
        .is(200);
    let mut counted = BTreeMap::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let url = format!("{}?address=192.0.2.1", path.replace("{id}", "absent"));
            let description = operation["description"].as_str().unwrap_or_default();
            let place = format!("{method} {path}: {description}");
            if operation["security"].is_null() {
                assert_eq!(
                    place.split(':').next(),
                    Some("POST /api/v1/session"),
                    "only signing in is open"
                );
                continue;
            }
            let nobody = manager.send(method.clone(), &url, &[], None).await;
            assert_eq!(nobody.status, 401, "{place}");
            let forged = Caller::with_token(&manager, "darter_pat_forged")
                .send(method.clone(), &url, None)
                .await;
            assert_eq!(forged.status, 401, "{place}");
            let needs = description.rsplit("Needs ").next().unwrap();
            *counted.entry(needs.to_owned()).or_insert(0) += 1;
            let (for_viewers, for_operators) = match needs {
                "the role viewer." => (true, true),
                "the role operator." => (false, true),
                "the role admin." => (false, false),
                // What has to do with one's own session is not sent in it, as that would end it.
                "a browser's session: a token is not enough." => {
                    assert_eq!(
                        token.send(method.clone(), &url, None).await.status,
                        403,
                        "{place}"
                    );
                    continue;
                }
                other => panic!("{place}: {other}"),
            };
            for (caller, may) in [(&viewer, for_viewers), (&operator, for_operators), (&admin, true)] {
                let status = caller.send(method.clone(), &url, None).await.status;
                assert_eq!(status != 403, may, "{place}: {status}");
                assert!(
                    status != 401 && status != 405 && !status.is_server_error(),
                    "{place}: {status}"
                );
            }
        }
    }
    assert_eq!(counted.len(), 4, "{counted:?}");
    assert_eq!(
        viewer.get("/api/v1/nothing").await.is(404)["detail"],
        "there is no such page"
    );
    assert_eq!(
        viewer.send(Method::PATCH, "/api/v1/users", None).await.status,
        405
    );
    manager.stop().await;
}

pub(crate) async fn tokens_do_no_more_than_they_may_and_end(home: &Home) {
    let manager = Manager::start(home).await;
    let admin = manager.admin().await;
    let (_, otto) = admin.user("otto", "operator").await;
    let new =
        |name: &str, role: &str, lifetime: &str| json!({ "name": name, "role": role, "lifetime": lifetime });
    let made = otto
        .post("/api/v1/tokens", new("ci", "viewer", "1h"))
        .await
        .is(201);
    let secret = made["secret"].as_str().unwrap();
    assert!(secret.starts_with("darter_pat_"));
    let listed = otto.get("/api/v1/tokens").await;
    assert!(
        !listed.text.contains(secret) && listed.text.contains("\"ci\""),
        "{}",
        listed.text
    );

    let token = Caller::with_token(&manager, secret);
    token.get("/api/v1/clusters").await.is(200);
    assert_eq!(
        token.get("/api/v1/session").await.is(200),
        json!({ "name": "otto", "role": "viewer", "token": true })
    );
    let refused = token.post("/api/v1/clusters", json!({ "name": "x" })).await;
    assert_eq!(
        refused.is(403)["detail"],
        "this needs the role operator; otto has viewer"
    );
    let refused = token.post("/api/v1/tokens", new("more", "viewer", "1h")).await;
    assert_eq!(
        refused.is(403)["detail"],
        "this needs a browser's session: sign in with name and password"
    );

    for (body, field) in [
        (new("a b", "viewer", "1h"), "name"),
        (new("x", "admin", "1h"), "role"),
        (new("x", "viewer", "0s"), "lifetime"),
        (new("x", "viewer", "9000h"), "lifetime"),
    ] {
        let refused = otto.post("/api/v1/tokens", body).await.is(422);
        assert_eq!(refused["errors"][0]["field"], field);
    }
    otto.post("/api/v1/tokens", new("ci", "viewer", "1h"))
        .await
        .is(409);

    manager.stop().await;
}

/// A token is good for as long as its user may what it may, and it has not ended.
pub(crate) async fn tokens_end(home: &Home) {
    let manager = Manager::start(home).await;
    let admin = manager.admin().await;
    let (id, otto) = admin.user("otto", "operator").await;
    let new = |name: &str, role: &str| json!({ "name": name, "role": role, "lifetime": "1h" });
    let made = otto.post("/api/v1/tokens", new("ci", "viewer")).await.is(201);
    let token = Caller::with_token(&manager, made["secret"].as_str().unwrap());
    // The user may do less now, and then nothing.
    let strong = otto
        .post("/api/v1/tokens", new("strong", "operator"))
        .await
        .is(201);
    let strong = Caller::with_token(&manager, strong["secret"].as_str().unwrap());
    let path = format!("/api/v1/users/{id}");
    admin
        .put(&path, json!({ "role": "viewer", "disabled": false }))
        .await
        .is(200);
    strong
        .post("/api/v1/clusters", json!({ "name": "x" }))
        .await
        .is(403);
    admin
        .put(&path, json!({ "role": "viewer", "disabled": true }))
        .await
        .is(200);
    strong.get("/api/v1/clusters").await.is(401);
    otto.get("/api/v1/clusters").await.is(401);
    admin
        .put(&path, json!({ "role": "viewer", "disabled": false }))
        .await
        .is(200);
    otto.get("/api/v1/clusters").await.is(401);
    token.get("/api/v1/clusters").await.is(200);

    let id = made["id"].as_str().unwrap();
    admin.delete(&format!("/api/v1/tokens/{id}")).await.is(404);
    token.delete(&format!("/api/v1/tokens/{id}")).await.is(204);
    token.get("/api/v1/clusters").await.is(401);
    strong.get("/api/v1/clusters").await.is(200);
    manager.clock.fetch_add(3_600_000, Ordering::Relaxed);
    strong.get("/api/v1/clusters").await.is(401);
    admin.get("/api/v1/clusters").await.is(200);
    manager.clock.fetch_add(11 * 3_600_000, Ordering::Relaxed);
    admin.get("/api/v1/clusters").await.is(401);
    manager.stop().await;
}

pub(crate) async fn a_thousand_guesses_are_ten_and_are_written_down(home: &Home) {
    let manager = Manager::start(home).await;
    let admin = manager.admin().await;
    let mut seen = BTreeMap::new();
    for guess in 0..1000 {
        let answer = manager
            .sign_in("admin", &format!("a wrong password {guess}"))
            .await;
        *seen.entry(answer.status.as_u16()).or_insert(0) += 1;
        if answer.status == 429 {
            let wait: u64 = answer.headers["retry-after"].parse().unwrap();
            assert!((1..=61).contains(&wait), "{wait}");
        }
    }
    assert_eq!(seen, BTreeMap::from([(401, 10), (429, 990)]));
    let right = manager
        .sign_in("admin", manager.password.as_deref().unwrap())
        .await;
    assert_eq!(right.status, 429, "who guesses is not told when it was right");
    let mut lines = BTreeMap::new();
    let mut before = String::new();
    loop {
        let page = admin
            .get(&format!("/api/v1/audit?count=500{before}"))
            .await
            .is(200);
        let page = page.as_array().unwrap();
        for line in page {
            assert!(!line.to_string().contains("wrong password"), "{line}");
            *lines
                .entry(line["action"].as_str().unwrap().to_owned())
                .or_insert(0) += 1;
        }
        match page.last() {
            Some(last) if page.len() == 500 => before = format!("&before={}", last["id"].as_str().unwrap()),
            _ => break,
        }
    }
    assert_eq!(
        (
            lines["session.refuse"],
            lines["session.throttle"],
            lines["session.begin"]
        ),
        (10, 1, 1)
    );
    manager.stop().await;
}

pub(crate) async fn pages_of_others_cannot_use_a_session(home: &Home) {
    let manager = Manager::start_with(home, |config| {
        config.web.public_url = "https://darter.example".into()
    })
    .await;
    let answer = manager
        .sign_in("admin", manager.password.as_deref().unwrap())
        .await;
    let cookie = &answer.headers["set-cookie"];
    assert!(cookie.starts_with("__Host-darter_session="), "{cookie}");
    assert!(
        cookie.ends_with("; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict; Secure"),
        "{cookie}"
    );
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    let admin = manager.admin().await;
    let only_cookie = Caller {
        manager: &manager,
        headers: admin.headers[..1].to_vec(),
    };
    only_cookie.get("/api/v1/clusters").await.is(200);
    let refused = only_cookie.post("/api/v1/clusters", json!({ "name": "x" })).await;
    assert!(
        refused.is(403)["detail"]
            .as_str()
            .unwrap()
            .contains("x-darter-request")
    );
    admin.send(Method::DELETE, "/api/v1/session", None).await.is(204);
    admin.get("/api/v1/clusters").await.is(401);
    manager.stop().await;
}

pub(crate) async fn somebody_can_always_administer(home: &Home) {
    let manager = Manager::start(home).await;
    let admin = manager.admin().await;
    let users = admin.get("/api/v1/users").await.is(200);
    let me = format!("/api/v1/users/{}", users[0]["id"].as_str().unwrap());
    for refused in [
        admin
            .put(&me, json!({ "role": "viewer", "disabled": false }))
            .await,
        admin.put(&me, json!({ "role": "admin", "disabled": true })).await,
        admin.delete(&me).await,
    ] {
        assert!(
            refused.is(409)["detail"]
                .as_str()
                .unwrap()
                .contains("another administrator")
        );
    }
    admin.get("/api/v1/users").await.is(200);
    let (second, _) = admin.user("second", "admin").await;
    admin.delete(&format!("/api/v1/users/{second}")).await.is(204);

    manager.stop().await;
}

pub(crate) async fn every_node_has_a_cluster(home: &Home) {
    let manager = Manager::start(home).await;
    let admin = manager.admin().await;
    let clusters = admin.get("/api/v1/clusters").await.is(200);
    let first = format!("/api/v1/clusters/{}", clusters[0]["id"].as_str().unwrap());
    assert!(
        admin.delete(&first).await.is(409)["detail"]
            .as_str()
            .unwrap()
            .contains("default")
    );
    let berlin = json!({
        "name": "berlin", "isDefault": false,
        "scope": { "cidrs": ["10.1.0.0/16"], "hostnames": ["b-.*"], "idcs": [], "locations": ["europe|berlin"] },
    });
    let made = admin.post("/api/v1/clusters", berlin.clone()).await.is(201);
    assert_eq!(made["scope"], berlin["scope"]);
    admin.post("/api/v1/clusters", berlin.clone()).await.is(409);
    for (query, name, reason) in [
        ("address=10.1.2.3", "berlin", "its address is in 10.1.0.0/16"),
        (
            "address=::ffff:10.1.2.3",
            "berlin",
            "its address is in 10.1.0.0/16",
        ),
        (
            "address=192.0.2.1&location=europe%7Cberlin%7Cr1",
            "berlin",
            "its location is in europe|berlin",
        ),
        (
            "address=192.0.2.1",
            "default",
            "no cluster is for it, and this one is the default",
        ),
    ] {
        let placed = admin.get(&format!("/api/v1/placement?{query}")).await.is(200);
        assert_eq!(
            (placed["name"].as_str(), placed["reason"].as_str()),
            (Some(name), Some(reason))
        );
    }
    let path = format!("/api/v1/clusters/{}", made["id"].as_str().unwrap());
    let mut changed = berlin.clone();
    changed["isDefault"] = true.into();
    admin.put(&path, changed).await.is(200);
    assert_eq!(admin.get(&first).await.is(200)["isDefault"], false);
    admin.delete(&first).await.is(204);
    admin.put(&path, berlin).await.is(409);
    assert_eq!(admin.get(&path).await.is(200)["isDefault"], true);
    manager.stop().await;
}

pub(crate) async fn what_cannot_be_taken_is_said_at_once_and_kept_nowhere(home: &Home) {
    let manager = Manager::start(home).await;
    let admin = manager.admin().await;
    let bad = json!({
        "name": "a b", "description": "x".repeat(1001),
        "scope": { "hostnames": ["["], "idcs": [""] },
    });
    let refused = admin.post("/api/v1/clusters", bad).await;
    assert_eq!(refused.headers["content-type"], "application/problem+json");
    let fields: Vec<Value> = refused.is(422)["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["field"].clone())
        .collect();
    assert_eq!(
        fields,
        ["name", "description", "scope.hostnames[0]", "scope.idcs[0]"]
    );
    for (body, said) in [
        (json!({ "name": "x", "colour": 1 }), "colour"),
        (
            json!({ "name": "x", "scope": { "cidrs": ["10.0.0.0/33"] } }),
            "cidrs",
        ),
        (json!({}), "name"),
    ] {
        let refused = admin.post("/api/v1/clusters", body).await;
        assert_eq!(refused.status, 422);
        assert!(
            refused.detail().contains(said) || refused.detail().contains("invalid"),
            "{}",
            refused.text
        );
    }
    let long = admin
        .post(
            "/api/v1/clusters",
            json!({ "name": "x", "description": "y".repeat(300_000) }),
        )
        .await;
    assert_eq!(long.status, 413);
    admin
        .post(
            "/api/v1/users",
            json!({ "name": "u", "role": "viewer", "password": "short" }),
        )
        .await
        .is(422);
    admin.get("/api/v1/placement?address=nowhere").await.is(400);
    assert_eq!(
        admin
            .get("/api/v1/clusters")
            .await
            .is(200)
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        admin.get("/api/v1/users").await.is(200).as_array().unwrap().len(),
        1
    );
    manager.stop().await;
}

pub(crate) async fn a_new_password_ends_the_sessions(home: &Home) {
    let manager = Manager::start(home).await;
    let admin = manager.admin().await;
    let own = json!({ "current": "not the password", "password": "a new long password" });
    admin.put("/api/v1/session/password", own).await.is(422);
    let own = json!({ "current": manager.password, "password": "a new long password" });
    admin.put("/api/v1/session/password", own).await.is(204);
    admin.get("/api/v1/users").await.is(401);
    manager
        .session("admin", "a new long password")
        .await
        .get("/api/v1/users")
        .await
        .is(200);
    manager.stop().await;
}

pub(crate) async fn what_a_user_may_have_is_bounded(home: &Home) {
    let manager = Manager::start(home).await;
    let first = manager.admin().await;
    let mut last = manager.admin().await;
    for _ in 0..19 {
        last = manager.admin().await;
    }
    first.get("/api/v1/session").await.is(401);
    for number in 0..100 {
        let new = json!({ "name": format!("token-{number}"), "role": "viewer", "lifetime": "1h" });
        last.post("/api/v1/tokens", new).await.is(201);
    }
    let new = json!({ "name": "one-more", "role": "viewer", "lifetime": "1h" });
    last.post("/api/v1/tokens", new).await.is(409);
    assert_eq!(
        last.get("/api/v1/tokens").await.is(200).as_array().unwrap().len(),
        100
    );
    manager.stop().await;
}

pub(crate) async fn clusters_are_bounded(home: &Home) {
    let manager = Manager::start(home).await;
    let admin = manager.admin().await;
    // One is there from the start.
    for number in 1..1000 {
        let new = json!({ "name": format!("cluster-{number}") });
        admin.post("/api/v1/clusters", new).await.is(201);
    }
    let refused = admin
        .post("/api/v1/clusters", json!({ "name": "one-more" }))
        .await;
    assert!(refused.detail().contains("1,000 clusters"), "{}", refused.text);
    refused.is(409);
    let clusters = admin.get("/api/v1/clusters").await.is(200);
    assert_eq!(clusters.as_array().unwrap().len(), 1000);
    manager.stop().await;
}

/// A password that was typed where the name belongs is written nowhere.
pub(crate) async fn only_names_of_users_are_written_down(home: &Home) {
    let manager = Manager::start(home).await;
    for _ in 0..12 {
        manager.sign_in("hunter2-hunter2-hunter2", "admin").await;
    }
    let admin = manager.admin().await;
    let lines = admin.get("/api/v1/audit").await;
    assert!(!lines.text.contains("hunter2"), "{}", lines.text);
    let unknown = lines.text.matches("\"(unknown)\"").count();
    assert_eq!(unknown, 11, "ten refused, one that was not tried: {}", lines.text);
    manager.stop().await;
}

/// What others may not have is not there, and what there is they may not have.
fn nothing_on_disk(folder: &Path, secrets: &[&str]) {
    let mode = folder.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
    let mut looked = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        for secret in secrets {
            let found = bytes
                .windows(secret.len())
                .any(|window| window == secret.as_bytes());
            assert!(!found, "a secret is on the disk");
        }
        looked += bytes.len();
    }
    assert!(looked > 4096);
}

/// The console's files are for everybody, know nothing, and let a browser run and load only themselves; what a browser has is not
/// sent again.
pub(crate) async fn the_console_is_served_with_a_strict_policy(home: &Home) {
    let manager = Manager::start(home).await;
    for (place, kind, begins) in [
        ("/", "text/html; charset=utf-8", "<!doctype html>"),
        ("/console/main.js", "text/javascript; charset=utf-8", "// "),
        ("/console/pages/users.js", "text/javascript; charset=utf-8", "// "),
        ("/console/base.css", "text/css; charset=utf-8", "/* "),
        ("/console/icon.svg", "image/svg+xml", "<svg "),
    ] {
        let answer = manager.send(Method::GET, place, &[], None).await;
        assert_eq!(answer.status, 200, "{place}");
        assert!(answer.text.starts_with(begins), "{place}: {}", answer.text);
        let policy = &answer.headers["content-security-policy"];
        for part in [
            "default-src 'none'",
            "script-src 'self';",
            "style-src 'self';",
            "frame-ancestors 'none'",
            "base-uri 'none'",
            "require-trusted-types-for 'script'",
        ] {
            assert!(policy.contains(part), "{place}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{place}: {policy}");
        for (name, value) in [
            ("content-type", kind),
            ("cache-control", "no-cache"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
        ] {
            assert_eq!(answer.headers[name], value, "{place}");
        }
        let tag = answer.headers["etag"].as_str();
        let again = manager
            .send(Method::GET, place, &[("if-none-match", tag)], None)
            .await;
        assert_eq!((again.status.as_u16(), again.text.as_str()), (304, ""), "{place}");
        assert!(again.headers.contains_key("content-security-policy"), "{place}");
        assert_eq!(
            manager.send(Method::POST, place, &[], None).await.status,
            405,
            "{place}"
        );
    }
    manager
        .send(Method::GET, "/console/../Cargo.toml", &[], None)
        .await
        .is(404);
    manager.send(Method::GET, "/console/", &[], None).await.is(404);
    manager.stop().await;
}

/// Lines of the audit are found by who did them and what they did.
pub(crate) async fn the_audit_is_filtered(home: &Home) {
    let manager = Manager::start(home).await;
    let admin = manager.admin().await;
    let (_, otto) = admin.user("otto", "operator").await;
    for name in ["one", "two"] {
        otto.post("/api/v1/clusters", json!({ "name": name }))
            .await
            .is(201);
    }
    for (query, lines) in [
        ("actor=otto&action=cluster.", 2),
        ("actor=otto&action=cluster.&count=1", 1),
        ("actor=otto", 3),
        ("actor=admin&action=user.", 1),
        ("actor=ot", 0),
        ("action=luster.", 0),
        ("action=%25", 0),
    ] {
        let found = admin.get(&format!("/api/v1/audit?{query}")).await.is(200);
        assert_eq!(found.as_array().unwrap().len(), lines, "{query}: {found}");
    }
    let newest = admin.get("/api/v1/audit?actor=otto&count=1").await.is(200);
    let before = newest[0]["id"].as_str().unwrap();
    let next = admin
        .get(&format!(
            "/api/v1/audit?actor=otto&action=cluster.&before={before}"
        ))
        .await;
    assert_eq!(next.is(200)[0]["object"], "one");
    manager.stop().await;
}

/// What is wrong is said of the field that it is in, for forms to show it there.
pub(crate) async fn what_is_wrong_is_said_of_its_field(home: &Home) {
    let manager = Manager::start(home).await;
    let admin = manager.admin().await;
    let body = json!({ "name": "a", "scope": { "cidrs": ["10.0.0.0/8", "10.0.0.0/99"] } });
    let refused = admin.post("/api/v1/clusters", body).await.is(422);
    assert_eq!(refused["errors"][0]["field"], "scope.cidrs[1]");
    assert_eq!(refused["errors"][0]["message"], "invalid IP address syntax");
    admin
        .post("/api/v1/clusters", json!({ "name": "a" }))
        .await
        .is(201);
    let refused = admin
        .post("/api/v1/clusters", json!({ "name": "a" }))
        .await
        .is(409);
    assert_eq!(refused["errors"][0]["field"], "name");
    let refused = admin.get("/api/v1/placement?address=here").await.is(400);
    assert_eq!(refused["errors"][0]["field"], "address");
    manager.stop().await;
}
