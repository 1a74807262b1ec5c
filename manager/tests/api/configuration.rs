//! What members are told to do, and with what they join, as operators meet it.

use serde_json::{Value, json};

use crate::home::{Caller, Home, Manager};

/// The id of the cluster that there is from the start.
pub(crate) async fn default_cluster(caller: &Caller<'_>) -> String {
    let clusters = caller.get("/api/v1/clusters").await.is(200);
    let all = clusters.as_array().unwrap();
    let found = all.iter().find(|cluster| cluster["isDefault"] == true);
    found.unwrap()["id"].as_str().unwrap().to_owned()
}

pub(crate) async fn every_version_is_kept_and_nobody_overwrites_another(home: &Home) {
    let manager = Manager::start(home).await;
    let admin = manager.admin().await;
    let (_, otto) = admin.user("otto", "operator").await;
    let path = format!("/api/v1/clusters/{}/configuration", default_cluster(&admin).await);
    let none = admin.get(&path).await.is(200);
    assert_eq!((&none["version"], &none["document"]), (&json!(0), &json!({})));
    let body = |replaces: i64, count: Value| json!({ "replaces": replaces, "comment": "why", "document": { "scheduler": { "parents": { "countMax": count } } } });
    let first = otto.put(&path, body(0, json!(8))).await.is(200);
    assert_eq!((&first["version"], &first["author"]), (&json!(1), &json!("otto")));

    let late = admin.put(&path, body(0, json!(9))).await;
    assert!(late.detail().contains("not the newest"), "{}", late.text);
    late.is(409);
    let (one, other) = tokio::join!(
        admin.put(&path, body(1, json!(9))),
        otto.put(&path, body(1, json!(7)))
    );
    let mut statuses = [one.status.as_u16(), other.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409], "{} {}", one.text, other.text);

    let wrong = json!({
        "replaces": 2, "document": { "proxy": { "pull": { "bytesPerSecondMax": "1B" } }, "scheduler": { "parents": { "countMax": 99 } }, "x": 1 }
    });
    let refused = admin.put(&path, wrong).await.is(422);
    let fields: Vec<&str> = refused["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["field"].as_str().unwrap())
        .collect();
    assert_eq!(
        fields,
        [
            "document.x",
            "document.proxy.pull.bytesPerSecondMax",
            "document.scheduler.parents.countMax"
        ]
    );

    let back = json!({ "replaces": 2, "to": 1 });
    let rolled = admin
        .post(&format!("{path}/roll-back"), back.clone())
        .await
        .is(200);
    assert_eq!(
        (&rolled["version"], &rolled["document"]),
        (&json!(3), &first["document"])
    );
    admin.post(&format!("{path}/roll-back"), back).await.is(409);
    let history = admin.get(&format!("{path}/history?limit=2")).await.is(200);
    let versions: Vec<i64> = history
        .as_array()
        .unwrap()
        .iter()
        .map(|version| version["version"].as_i64().unwrap())
        .collect();
    assert_eq!(versions, [3, 2]);
    assert_eq!(
        admin.get(&format!("{path}?version=1")).await.is(200)["document"],
        first["document"]
    );
    admin.get(&format!("{path}?version=9")).await.is(404);
    let diff = admin.get(&format!("{path}/diff?from=0&to=3")).await.is(200);
    assert_eq!(
        diff,
        json!([{ "path": "scheduler.parents.countMax", "from": null, "to": 8 }])
    );
    manager.stop().await;
}

pub(crate) async fn join_tokens_are_shown_once_and_go_with_their_cluster(home: &Home) {
    let manager = Manager::start(home).await;
    let admin = manager.admin().await;
    let berlin = admin
        .post("/api/v1/clusters", json!({ "name": "berlin" }))
        .await
        .is(201);
    let new = json!({ "name": "nodes", "cluster": berlin["id"] });
    let made = admin.post("/api/v1/join-tokens", new.clone()).await.is(201);
    let secret = made["secret"].as_str().unwrap();
    assert!(secret.starts_with("darter_join_"), "{secret}");
    admin.post("/api/v1/join-tokens", new).await.is(409);
    admin
        .post("/api/v1/join-tokens", json!({ "name": "x", "cluster": "absent" }))
        .await
        .is(422);
    let listed = admin.get("/api/v1/join-tokens").await;
    assert!(!listed.text.contains(secret), "{}", listed.text);
    let listed = listed.is(200);
    assert_eq!(
        (&listed[0]["cluster"], &listed[0]["expires"]),
        (&berlin["id"], &Value::Null)
    );
    let cluster = format!("/api/v1/clusters/{}", berlin["id"].as_str().unwrap());
    admin.delete(&cluster).await.is(204);
    assert_eq!(admin.get("/api/v1/join-tokens").await.is(200), json!([]));
    manager.stop().await;
}
