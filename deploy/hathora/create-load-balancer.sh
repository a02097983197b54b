#!/bin/sh
# Create a global load balancer over zonal network endpoint groups; servers attach themselves.
#   PROJECT=my-project ZONES="us-west1-b us-east4-a" DOMAIN=llm.example.com \
#       deploy/hathora/create-load-balancer.sh
# May be run again: existing resources are not changed. Without DOMAIN there is no certificate, and
# requests, API keys included, cross the internet in plain HTTP.
set -eu
: "${PROJECT:?the Google Cloud project}"
: "${ZONES:?the zones in which servers run, separated by blanks}"
NAME=${NAME:-llm-serve}
NETWORK=${NETWORK:-default}
SUBNET=${SUBNET:-default}
PORT=${PORT:-8000} # HATHORA_DEFAULT_PORT of the servers
# The longest answer or stream. Google's default of 30 s would cut longer streams.
TIMEOUT_S=${TIMEOUT_S:-1800}
# At least DRAIN_TIMEOUT, so that in-flight requests survive the endpoint's removal.
DRAINING_S=${DRAINING_S:-60}
MAX_RATE=${MAX_RATE:-100} # requests per second and endpoint, above which the next zone is used
DOMAIN=${DOMAIN:-}

compute() {
    gcloud compute "$@" --project="$PROJECT" --quiet
}

ensure() { # resource, "create" with an optional kind, name, flags of its location..., --, further flags...
    resource=$1 create=$2 name=$3
    shift 3
    places=""
    while [ "$1" != -- ]; do
        places="$places $1"
        shift
    done
    shift
    # shellcheck disable=SC2086 # the words have no blanks; without a location there are none
    if compute "$resource" describe "$name" $places >/dev/null 2>&1; then
        echo "there:   $resource $name"
        return
    fi
    # shellcheck disable=SC2086
    compute "$resource" $create "$name" $places "$@" >/dev/null
    echo "created: $resource $name"
}

# The health checks and the load balancer's requests come from these two ranges.
ensure firewall-rules create "$NAME-health" -- --network="$NETWORK" --direction=INGRESS \
    --action=ALLOW --rules="tcp:$PORT" --source-ranges=35.191.0.0/16,130.211.0.0/22

for zone in $ZONES; do
    ensure network-endpoint-groups create "llm-serve-$zone" --zone="$zone" -- \
        --network-endpoint-type=gce-vm-ip-port --network="$NETWORK" --subnet="$SUBNET" \
        --default-port="$PORT"
done

# /readyz answers 503 while the model loads, from the start of a drain, and without an engine.
ensure health-checks "create http" "$NAME" --global -- --request-path=/readyz --use-serving-port \
    --check-interval=5s --timeout=5s --healthy-threshold=1 --unhealthy-threshold=2

ensure backend-services create "$NAME" --global -- --load-balancing-scheme=EXTERNAL_MANAGED \
    --protocol=HTTP --health-checks="$NAME" --global-health-checks --timeout="${TIMEOUT_S}s" \
    --connection-draining-timeout="${DRAINING_S}s" --enable-logging --logging-sample-rate=0.1

attached=$(compute backend-services describe "$NAME" --global --format='value(backends[].group)')
for zone in $ZONES; do
    case "$attached" in
    *"/zones/$zone/networkEndpointGroups/llm-serve-$zone"*) echo "there:   backend of $zone" ;;
    *)
        echo "created: backend of $zone"
        compute backend-services add-backend "$NAME" --global \
            --network-endpoint-group="llm-serve-$zone" --network-endpoint-group-zone="$zone" \
            --balancing-mode=RATE --max-rate-per-endpoint="$MAX_RATE" >/dev/null
        ;;
    esac
done

ensure url-maps create "$NAME" --global -- --default-service="$NAME"
ensure addresses create "$NAME" --global -- --ip-version=IPV4
if [ -n "$DOMAIN" ]; then
    ensure ssl-certificates create "$NAME" --global -- --domains="$DOMAIN"
    ensure target-https-proxies create "$NAME" --global -- --url-map="$NAME" --ssl-certificates="$NAME"
    ensure forwarding-rules create "$NAME" --global -- --load-balancing-scheme=EXTERNAL_MANAGED \
        --address="$NAME" --target-https-proxy="$NAME" --ports=443
else
    ensure target-http-proxies create "$NAME" --global -- --url-map="$NAME"
    ensure forwarding-rules create "$NAME" --global -- --load-balancing-scheme=EXTERNAL_MANAGED \
        --address="$NAME" --target-http-proxy="$NAME" --ports=80
fi
echo "address: $(compute addresses describe "$NAME" --global --format='value(address)')"
