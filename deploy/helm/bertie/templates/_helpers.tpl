{{- define "bertie.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "bertie.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "bertie.labels" -}}
{{ include "bertie.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "bertie.image" -}}
{{- $tag := .Values.image.tag | default (printf "%s%s" .Chart.AppVersion (ternary "-gpu" "" .Values.gpu.enabled)) -}}
{{- printf "%s:%s" .Values.image.repository $tag -}}
{{- end -}}

{{/* preStop runs first, then the drain; 10 s more to close connections, send the last spans and write the log. */}}
{{- define "bertie.graceSeconds" -}}
{{- add .Values.preStopSeconds (ceil .Values.drainSeconds) 10 -}}
{{- end -}}

{{/* What the chart sets by itself, over what .Values.settings says. */}}
{{- define "bertie.settings" -}}
{{- $own := dict "port" .Values.service.port "ops_port" .Values.service.opsPort "drain_seconds" .Values.drainSeconds -}}
{{- if .Values.grpc.enabled -}}
{{- $_ := set $own "grpc_port" .Values.grpc.port -}}
{{- end -}}
{{- if has .Values.models.source (list "claim" "ociImage") -}}
{{- $_ := set $own "models_dir" "/models" -}}
{{- else if eq .Values.models.source "references" -}}
{{- $_ := set $own "models" (join "," .Values.models.references) -}}
{{- $_ := set $own "cache_dir" "/var/cache/bertie" -}}
{{- end -}}
{{- if .Values.keys.file.secret -}}
{{- $_ := set $own "keys_file" (printf "/etc/bertie/keys/%s" .Values.keys.file.key) -}}
{{- end -}}
{{- merge $own .Values.settings | toJson -}}
{{- end -}}

{{/* A number as a person writes it: 2000000, not 2e+06. */}}
{{- define "bertie.setting" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}{{ int64 . }}{{- else -}}{{ . }}{{- end -}}
{{- end -}}
