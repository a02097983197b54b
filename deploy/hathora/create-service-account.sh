#!/bin/sh
# Create the service account with which servers register; prints GCP_SERVICE_ACCOUNT_KEY_BASE64.
#   PROJECT=my-project deploy/hathora/create-service-account.sh >key.base64
# The key is only printed: put it into a secret and delete the file. May be run again, which creates
# another key (`gcloud iam service-accounts keys list` and `delete` remove the old ones).
set -eu
: "${PROJECT:?the Google Cloud project of the endpoint group}"
ROLE=serveHathoraEndpoint
ACCOUNT=serve-hathora@$PROJECT.iam.gserviceaccount.com
here=$(cd "$(dirname "$0")" && pwd)

if gcloud iam roles describe "$ROLE" --project="$PROJECT" >/dev/null 2>&1; then
    gcloud iam roles update "$ROLE" --project="$PROJECT" --file="$here/role.yaml" --quiet >&2
else
    gcloud iam roles create "$ROLE" --project="$PROJECT" --file="$here/role.yaml" --quiet >&2
fi
gcloud iam service-accounts describe "$ACCOUNT" --project="$PROJECT" >/dev/null 2>&1 ||
    gcloud iam service-accounts create serve-hathora --project="$PROJECT" \
        --display-name="serve-hathora network endpoints" >&2
gcloud projects add-iam-policy-binding "$PROJECT" --member="serviceAccount:$ACCOUNT" \
    --role="projects/$PROJECT/roles/$ROLE" --condition=None --quiet >/dev/null
key=$(gcloud iam service-accounts keys create - --iam-account="$ACCOUNT" --project="$PROJECT")
printf '%s' "$key" | base64 | tr -d '\n'
echo
