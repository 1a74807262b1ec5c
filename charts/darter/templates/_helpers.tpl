{{- define "darter.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains "darter" .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-darter" .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "darter.selector" -}}
app.kubernetes.io/name: {{ .root.Values.nameOverride | default "darter" }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .role }}
{{- end -}}

{{- define "darter.labels" -}}
{{ include "darter.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* name, namespace and labels of a role's object */}}
{{- define "darter.metadata" -}}
name: {{ include "darter.fullname" .root }}-{{ .role }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "darter.labels" . | nindent 2 }}
{{- end -}}

{{/* An image: `own` wins over what all have */}}
{{- define "darter.image" -}}
{{- $image := merge (dict) (pick (.own | default dict) "repository" "digest" "tag") -}}
{{- $all := .root.Values.image -}}
{{- $repository := $image.repository | default $all.repository -}}
{{- $digest := $image.digest | default (ternary "" $all.digest (hasKey $image "repository")) -}}
{{- $tag := $image.tag | default $all.tag | default .root.Chart.AppVersion -}}
{{- $name := ternary (printf "%s/%s" $all.registry $repository) $repository (ne $all.registry "") -}}
{{- if $digest -}}{{ $name }}@{{ $digest }}{{- else -}}{{ $name }}:{{ $tag }}{{- end -}}
{{- end -}}

{{/* host:port of every scheduler, as a YAML list */}}
{{- define "darter.schedulers" -}}
{{- if .Values.scheduler.addresses -}}
{{ toYaml .Values.scheduler.addresses }}
{{- else if .Values.scheduler.enabled -}}
{{- $name := printf "%s-scheduler" (include "darter.fullname" .) -}}
{{- range $index := until (int .Values.scheduler.replicas) }}
- {{ printf "%s-%d.%s.%s.svc.%s:%d" $name $index $name $.Release.Namespace $.Values.clusterDomain (int $.Values.scheduler.ports.grpc) }}
{{- end }}
{{- else -}}
[]
{{- end -}}
{{- end -}}

{{/* Whether the chart brings a `role`; empty if it does not */}}
{{- define "darter.brings" -}}
{{- $values := index .root.Values .role -}}
{{- if and $values.enabled (not (and (eq .role "scheduler") $values.addresses)) -}}yes{{- end -}}
{{- end -}}

{{/* host:port of every manager that roles join, as a YAML list */}}
{{- define "darter.managers" -}}
{{- $manager := .Values.manager -}}
{{- if $manager.addresses -}}
{{ toYaml $manager.addresses }}
{{- else if and $manager.enabled (or .Values.tls.enabled $manager.join.existingSecret) -}}
- {{ printf "%s-manager.%s.svc.%s:%d" (include "darter.fullname" .) .Release.Namespace .Values.clusterDomain (int $manager.ports.roles) }}
{{- else -}}
[]
{{- end -}}
{{- end -}}

{{/* The section manager of those that join one; nothing if there is none to join */}}
{{- define "darter.joinConfig" -}}
{{- $join := .Values.manager.join -}}
{{- with include "darter.managers" . | fromYamlArray }}
{{- if not (or $.Values.tls.enabled $join.existingSecret) }}
{{- fail "manager.join.existingSecret: without tls.enabled name the Secret with the join token" }}
{{- end }}
{{- if not (or $.Values.tls.enabled $join.plain) }}
{{- fail "manager.join.plain: without tls.enabled the join token would be sent in the clear; allow that, or set tls.enabled" }}
{{- end }}
manager:
  addresses: {{- toYaml . | nindent 4 }}
  {{- if $join.existingSecret }}
  joinTokenFile: /etc/darter/join/token
  {{- end }}
  plain: {{ $join.plain }}
  dir: /var/lib/darter
{{- end }}
{{- end -}}

{{/* Whether those that join show a token; empty if they do not */}}
{{- define "darter.joinsByToken" -}}
{{- if and .Values.manager.join.existingSecret (include "darter.managers" . | fromYamlArray) -}}yes{{- end -}}
{{- end -}}

{{- define "darter.joinMount" -}}
{{- if include "darter.joinsByToken" . -}}
- { name: join, mountPath: /etc/darter/join, readOnly: true }
{{- end -}}
{{- end -}}

{{/* `mode`: the group reads it where fsGroup is set */}}
{{- define "darter.joinVolume" -}}
{{- if include "darter.joinsByToken" .root -}}
{{- $join := .root.Values.manager.join -}}
- name: join
  secret: { secretName: {{ $join.existingSecret }}, defaultMode: {{ .mode }}, items: [{ key: {{ $join.secretKey }}, path: token }] }
{{- end -}}
{{- end -}}

{{/* What every configuration has */}}
{{- define "darter.commonConfig" -}}
log:
  format: json
  filter: {{ .Values.log.filter | quote }}
  bytesPerMinuteMax: {{ .Values.log.bytesPerMinuteMax | quote }}
{{- with .Values.traces.otlpEndpoint }}
traces:
  otlpEndpoint: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* The Secret with the certificate of a `role` */}}
{{- define "darter.tlsSecret" -}}
{{- if .root.Values.tls.certManager.enabled -}}
{{ include "darter.fullname" .root }}-{{ .role }}-tls
{{- else -}}
{{ required (printf "tls.%sSecret: name the Secret with the certificate of the role %s, or let tls.certManager make it" .role .role) (index .root.Values.tls (printf "%sSecret" .role)) }}
{{- end -}}
{{- end -}}

{{/* The section tls: files below /etc/darter/tls */}}
{{- define "darter.tlsConfig" -}}
{{- if .Values.tls.enabled }}
tls:
  certFile: /etc/darter/tls/tls.crt
  keyFile: /etc/darter/tls/tls.key
  caFile: /etc/darter/tls/ca.crt
{{- end }}
{{- end -}}

{{/* A ConfigMap with one file. `made` is what the chart sets; `config` of the values goes before it */}}
{{- define "darter.configMap" -}}
apiVersion: v1
kind: ConfigMap
metadata:
  {{- include "darter.metadata" . | nindent 2 }}
data:
  {{ .file }}: |
    {{- mustMergeOverwrite (.made | fromYaml) (deepCopy .values.config) | toYaml | nindent 4 }}
{{- end -}}

{{/* What all pods have: no token, no privilege. `root` says whether the user is 0 */}}
{{- define "darter.podCommon" -}}
serviceAccountName: {{ include "darter.fullname" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Away from others of the role, unless the values say where */}}
{{- define "darter.affinity" -}}
affinity:
{{- with .values.affinity }}
  {{- toYaml . | nindent 2 }}
{{- else }}
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "darter.selector" . | nindent 14 }}
{{- end }}
{{- end -}}

{{/* Of pods that need nothing of the node */}}
{{- define "darter.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "darter.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
{{- end -}}

{{/* Probes of the admin port. A store is read before a proxy is ready, so the first probe has minutes */}}
{{- define "darter.probes" -}}
startupProbe:
  httpGet: { path: /readyz, port: {{ .port }}{{ with .host }}, host: {{ . | quote }}{{ end }} }
  periodSeconds: 2
  failureThreshold: 150
readinessProbe:
  httpGet: { path: /readyz, port: {{ .port }}{{ with .host }}, host: {{ . | quote }}{{ end }} }
  periodSeconds: 5
  timeoutSeconds: 3
livenessProbe:
  httpGet: { path: /livez, port: {{ .port }}{{ with .host }}, host: {{ . | quote }}{{ end }} }
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
{{- end -}}

{{- define "darter.fieldEnv" -}}
- name: {{ .name }}
  valueFrom: { fieldRef: { fieldPath: {{ .path }} } }
{{- end -}}

{{/* Pods are replaced when their configuration changes */}}
{{- define "darter.podMetadata" -}}
metadata:
  labels:
    {{- include "darter.labels" . | nindent 4 }}
    {{- with .values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    kubectl.kubernetes.io/default-container: {{ .role }}
    {{- with .configMap }}
    checksum/config: {{ sha256sum . }}
    {{- end }}
    {{- with .values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{/* At most one at a time may be taken away, where there are several */}}
{{- define "darter.disruption" -}}
{{- if and .root.Values.podDisruptionBudget.enabled (gt (int .values.replicas) 1) }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "darter.metadata" . | nindent 2 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels:
      {{- include "darter.selector" . | nindent 6 }}
{{- end }}
{{- end -}}

{{/* A NetworkPolicy: each of `rules` has a `port` and `from` (everybody if empty); the admin port from who scrapes */}}
{{- define "darter.network" -}}
{{- if .root.Values.networkPolicy.enabled }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  {{- include "darter.metadata" . | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      {{- include "darter.selector" . | nindent 6 }}
  policyTypes: [Ingress]
  ingress:
    {{- range .rules }}
    - ports: [{ port: {{ .port }}, protocol: TCP }]
      {{- with .from }}
      from:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    {{- end }}
    - ports: [{ port: {{ .values.ports.admin }}, protocol: TCP }]
      from:
        {{- with .root.Values.networkPolicy.metricsFrom }}
        {{- toYaml . | nindent 8 }}
        {{- else }}
        - podSelector: {}
        {{- end }}
{{- end }}
{{- end -}}

{{/* Nodes, by their networks, and the release's own pods; nothing if the networks are not known */}}
{{- define "darter.nodes" -}}
{{- if .Values.networkPolicy.nodeCIDRs -}}
{{- range .Values.networkPolicy.nodeCIDRs }}
- ipBlock: { cidr: {{ . | quote }} }
{{- end }}
- podSelector:
    matchLabels:
      app.kubernetes.io/name: {{ .Values.nameOverride | default "darter" }}
      app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}
{{- end -}}
