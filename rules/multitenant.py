"""Suffixes under which anyone may have a name: a wildcard there lets a sandbox talk to every tenant, its
attacker's bucket included.

A table of our own, short on purpose: the storage, hosting and tunnel services that exfiltration is seen
through. Each line names its source. The Public Suffix List's private section (publicsuffix.org) is the long
form of the same idea.
"""

from typing import Final

SUFFIXES: Final = {
    # https://docs.aws.amazon.com/general/latest/gr/s3.html
    "s3.amazonaws.com": "AWS S3",
    "s3.*.amazonaws.com": "AWS S3",
    "s3-website.*.amazonaws.com": "AWS S3",
    "s3.dualstack.*.amazonaws.com": "AWS S3",
    "s3.*.amazonaws.com.cn": "AWS S3",
    # https://docs.aws.amazon.com/apigateway/latest/developerguide/how-to-call-api.html
    "execute-api.*.amazonaws.com": "AWS API Gateway",
    # https://docs.aws.amazon.com/lambda/latest/dg/urls-configuration.html
    "lambda-url.*.on.aws": "AWS Lambda",
    # https://docs.aws.amazon.com/elasticloadbalancing/latest/userguide/how-elastic-load-balancing-works.html
    "*.elb.amazonaws.com": "AWS load balancers",
    # https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/distribution-working-with.html
    "cloudfront.net": "AWS CloudFront",
    # https://docs.aws.amazon.com/elasticbeanstalk/latest/dg/customdomains.html
    "elasticbeanstalk.com": "AWS Elastic Beanstalk",
    # https://learn.microsoft.com/azure/storage/common/storage-account-overview#storage-account-endpoints
    "blob.core.windows.net": "Azure Storage",
    "web.core.windows.net": "Azure Storage",
    # https://learn.microsoft.com/azure/app-service/overview-name-resolution
    "azurewebsites.net": "Azure App Service",
    # https://learn.microsoft.com/azure/frontdoor/endpoint
    "azurefd.net": "Azure Front Door",
    # https://cloud.google.com/storage/docs/request-endpoints
    "storage.googleapis.com": "Google Cloud Storage",
    # https://cloud.google.com/run/docs/triggering/https-request
    "run.app": "Google Cloud Run",
    "cloudfunctions.net": "Google Cloud Functions",
    # https://cloud.google.com/appengine/docs/standard/how-requests-are-routed
    "appspot.com": "Google App Engine",
    # https://firebase.google.com/docs/hosting
    "web.app": "Firebase",
    "firebaseapp.com": "Firebase",
    "firebaseio.com": "Firebase",
    # https://docs.github.com/pages/getting-started-with-github-pages/about-github-pages
    "github.io": "GitHub Pages",
    # https://docs.gitlab.com/user/project/pages/
    "gitlab.io": "GitLab Pages",
    # https://developers.cloudflare.com/pages/ and /workers/ and /r2/
    "pages.dev": "Cloudflare Pages",
    "workers.dev": "Cloudflare Workers",
    "r2.dev": "Cloudflare R2",
    "r2.cloudflarestorage.com": "Cloudflare R2",
    # https://developers.cloudflare.com/cloudflare-one/connections/connect-networks/do-more-with-tunnels/trycloudflare/
    "trycloudflare.com": "Cloudflare tunnels",
    # https://ngrok.com/docs/universal-gateway/domains/
    "ngrok.io": "ngrok tunnels",
    "ngrok.app": "ngrok tunnels",
    "ngrok-free.app": "ngrok tunnels",
    "ngrok-free.dev": "ngrok tunnels",
    # https://vercel.com/docs/domains
    "vercel.app": "Vercel",
    # https://docs.netlify.com/domains-https/custom-domains/
    "netlify.app": "Netlify",
    # https://devcenter.heroku.com/articles/custom-domains
    "herokuapp.com": "Heroku",
    # https://render.com/docs/web-services
    "onrender.com": "Render",
    # https://fly.io/docs/networking/custom-domain/
    "fly.dev": "Fly.io",
    # https://docs.deno.com/deploy/
    "deno.dev": "Deno Deploy",
    # https://docs.digitalocean.com/products/spaces/
    "digitaloceanspaces.com": "DigitalOcean Spaces",
    # https://docs.digitalocean.com/products/app-platform/
    "ondigitalocean.app": "DigitalOcean App Platform",
    # https://www.backblaze.com/docs/cloud-storage-s3-compatible-api
    "backblazeb2.com": "Backblaze B2",
    # https://huggingface.co/docs/hub/spaces-overview
    "hf.space": "Hugging Face Spaces",
    # https://docs.readthedocs.com/platform/stable/custom-domains.html
    "readthedocs.io": "Read the Docs",
    # https://www.duckdns.org/about.jsp
    "duckdns.org": "Duck DNS",
}  # fmt: skip
"""Suffix to service. A ``*`` is one label. A suffix of one's own below it (``*.my-app.pages.dev``) is not
meant."""


def tenants_under(suffix: str) -> tuple[str, str] | None:
    """The (suffix of the table, service) that a wildcard ``*.suffix`` holds whole, or None. ``suffix`` is
    canonical."""
    labels = suffix.split(".")[::-1]
    for shared, service in SUFFIXES.items():
        theirs = shared.split(".")[::-1]
        # Fewer labels: the wildcard holds the shared suffix and all below it.
        if len(labels) <= len(theirs) and all(
            t in ("*", ours) for ours, t in zip(labels, theirs, strict=False)
        ):
            return shared, service
    return None
