package rejection

import "net/http"

// The statuses that rules look at.
func only401() []int { return []int{http.StatusUnauthorized} }
func only403() []int { return []int{http.StatusForbidden} }
func both() []int    { return []int{http.StatusUnauthorized, http.StatusForbidden} }

// with400 are for systems that also say so with 400. The hook is asked about it
// only where the configuration counts it as a rejection.
func with400() []int { return append(both(), http.StatusBadRequest) }

// gatewayPresets are API gateways and proxies.
func gatewayPresets() map[string][]Rule {
	return map[string][]Rule{
		// docs.apigee.com, OAuth HTTP status code reference and common runtime
		// errors. oauth.v2.InvalidAccessToken has no rule: it is said of tokens
		// that did not arrive, and of paths that do not exist.
		"apigee": {
			dead(only401(), at("/fault/detail/errorcode",
				`^keymanagement\.service\.(invalid_access_token|access_token_expired|access_token_not_approved)$`)),
			notAllowed(both(), at("/fault/detail/errorcode",
				`^keymanagement\.service\.(apiresource_doesnot_exist|InvalidAPICallAsNoApiProductMatchFound)$`+
					`|^(steps\.)?oauth\.v2\.InsufficientScope$`)),
		},
		// apache/apisix, plugins/jwt-auth.lua: no token arrived.
		"apisix": {
			notAllowed(only401(), at("/message", `^Missing JWT token in request$`)),
		},
		// envoyproxy/envoy, jwt_authn (its status text is the body, and no token
		// arrived) and rbac. What else jwt_authn says is in its challenge. Istio
		// is the same.
		"envoy": {
			notAllowed(only401(), text(`^Jwt is missing$`)).in("text/plain"),
			notAllowed(only403(), text(`^RBAC: access denied$`)).in("text/plain"),
		},
		// Kong/kong, plugins/oauth2 and plugins/jwt: no token arrived, or several
		// did. What else they say is in their challenges. "You cannot consume
		// this service" has no rule: where anonymous consumers are let in, acl
		// says it of dead tokens as well.
		"kong": {
			notAllowed(only401(), at("/error", `^invalid_request$`), at("/error_description", `^The access token is missing$`)),
			notAllowed(only401(), at("/message", `^Multiple tokens provided$`)),
		},
		// TykTechnologies/tyk, gateway/mw_oauth2_key_exists.go and
		// mw_key_expired_check.go. A revoked client gets no other token. "Access
		// to this API has been disallowed" has no rule: it is said of unknown
		// keys as well.
		"tyk": {
			notAllowed(only403(), at("/error", `^Key not authorised\. OAuth client access was revoked$`)),
			dead(both(), at("/error", `^(Key not authorised|Key has expired, please renew|Key is inactive, please renew)$`)),
		},
		// wso2/carbon-apimgt, APISecurityConstants.java. 401 is said of subscriptions
		// (900907 to 900909), wrong kinds of tokens and missing tokens, too.
		// Old versions wrap the code in "fault", or say it in XML.
		"wso2": {
			dead(only401(), at("/code", wso2Dead)),
			dead(only401(), at("/fault/code", wso2Dead)),
			dead(only401(), text(`<ams:code>90090[134]</ams:code>`)).in("application/xml", "text/xml"),
			notAllowed(both(), at("/code", wso2NotAllowed)),
			notAllowed(both(), at("/fault/code", wso2NotAllowed)),
			notAllowed(both(), text(`<ams:code>9009(0[25-9]|10)</ams:code>`)).in("application/xml", "text/xml"),
		},
	}
}

const (
	wso2Dead       = `^90090[134]$`
	wso2NotAllowed = `^9009(0[25-9]|10)$`
)

// cloudPresets are the APIs of cloud providers.
func cloudPresets() map[string][]Rule {
	return map[string][]Rule{
		// developer-docs.amazon.com/sp-api: all are 403 "Unauthorized", and only
		// the details differ. They are empty where a role is missing.
		"amazon_sp_api": {
			dead(only403(), at("/errors/0/code", `^Unauthorized$`),
				at("/errors/0/details", `^The access token you provided (has expired|is revoked, malformed or invalid)\.$`)),
			notAllowed(only403(), at("/errors/0/code", `^Unauthorized$`),
				at("/errors/0/message", `^Access to requested resource is denied\.$`), at("/errors/0/details", `^$`)),
		},
		// docs.aws.amazon.com/apigateway, gateway response types of REST APIs:
		// EXPIRED_TOKEN, ACCESS_DENIED, MISSING_AUTHENTICATION_TOKEN (a wrong path
		// or method). HTTP APIs send challenges.
		"aws": {
			dead(both(), at("/message", `^The incoming token has expired$`)),
			notAllowed(only403(), at("/message", awsNotAllowed)),
			notAllowed(only403(), at("/Message", awsNotAllowed)),
		},
		// learn.microsoft.com, Microsoft Graph and Azure Resource Manager error
		// codes. A token of another tenant is no better when it is fresh.
		"azure": {
			dead(only401(), at("/error/code", `^(InvalidAuthenticationToken|ExpiredAuthenticationToken)$`)),
			notAllowed(both(), at("/error/code",
				`^(Authorization_RequestDenied|AuthorizationFailed|LinkedAuthorizationFailed|InvalidAuthenticationTokenTenant)$`)),
		},
		// googleapis/googleapis, google/api/error_reason.proto and google/rpc/code.proto;
		// errors/0/reason is the older form, of quotas for instance. A dead token is
		// UNAUTHENTICATED and 401, without exception.
		"google": {
			notAllowed(only401(), at("/error/details",
				`"reason":"(ACCESS_TOKEN_TYPE_UNSUPPORTED|CREDENTIALS_MISSING|ACCOUNT_STATE_INVALID)"`)),
			dead(only401(), at("/error/status", `^UNAUTHENTICATED$`)),
			notAllowed(only403(), at("/error/status", `^(PERMISSION_DENIED|RESOURCE_EXHAUSTED)$`)),
			notAllowed(only403(), at("/error/errors/0/domain", `^(usageLimits|global)$`),
				at("/error/errors/0/reason",
					`^(userRateLimitExceeded|rateLimitExceeded|quotaExceeded|dailyLimitExceeded|accessNotConfigured|insufficientPermissions|forbidden)$`)),
		},
	}
}

const awsNotAllowed = `^User is not authorized to (access this resource|perform: )|^Missing Authentication Token$`

// platformPresets are platforms that are run by oneself.
func platformPresets() map[string][]Rule {
	return map[string][]Rule{
		// cloudfoundry/cloud_controller_ng, errors/v2.yml: versions 3 and 2 of the
		// API. CF-NotAuthenticated means that no token arrived.
		"cloudfoundry": {
			dead(only401(), at("/errors/0/title", `^CF-InvalidAuthToken$`)),
			dead(only401(), at("/error_code", `^CF-InvalidAuthToken$`)),
			notAllowed(both(), at("/errors/0/title", cloudFoundryNotAllowed)),
			notAllowed(both(), at("/error_code", cloudFoundryNotAllowed)),
		},
		// hashicorp/consul, acl/errors.go. Old versions say no more than
		// "Permission denied", which has no rule: so do others.
		"consul": {
			dead(only403(), text(`^(rpc error: .*)?ACL not found`)).in("text/plain"),
			notAllowed(only403(), text(`^(rpc error: .*)?Permission denied: .* lacks permission '`)).in("text/plain"),
		},
		// distribution/distribution, registry/api/errcode. Registries send
		// challenges otherwise.
		"docker": {
			notAllowed(both(), at("/errors/0/code", `^DENIED$`),
				at("/errors/0/message", `^requested access to the resource is denied$`)),
		},
		// elastic/elasticsearch: a bad token is 401 with a challenge, and 403 the
		// answer to one that was understood.
		"elasticsearch": {
			notAllowed(only403(), at("/error/type", `^security_exception$`)),
		},
		// gitlab-org/gitlab, lib/api/api_guard.rb: 403 comes without a challenge.
		"gitlab": {
			dead(both(), at("/error", `^invalid_token$`)),
			notAllowed(both(), at("/error", `^insufficient_scope$`)),
		},
		// kubernetes/apimachinery, meta/v1 Status: a bad token is always 401.
		"kubernetes": {
			dead(only401(), at("/kind", `^Status$`), at("/reason", `^Unauthorized$`)),
			notAllowed(only403(), at("/kind", `^Status$`), at("/reason", `^Forbidden$`)),
		},
		// hashicorp/vault, pull request 25953, from 1.16 on. "permission denied"
		// alone has no rule: before, it was said of dead tokens as well.
		"vault": {
			dead(only403(), at("/errors/0", `(?m)^\s*\* permission denied$`), at("/errors/0", `(?m)^\s*\* invalid token$`)),
		},
	}
}

const cloudFoundryNotAllowed = `^CF-(NotAuthenticated|NotAuthorized|InsufficientScope)$`

// servicePresets are services on the Internet.
func servicePresets() map[string][]Rule {
	return map[string][]Rule{
		// developers.arcgis.com, which has statuses of its own.
		"arcgis": {
			dead([]int{401, 403, 498}, at("/error/code", `^498$`)),
			notAllowed([]int{401, 403, 498, 499}, at("/error/code", `^499$`)),
		},
		// The gateway of api.atlassian.com: a scope that lacks is 401.
		"atlassian": {
			notAllowed(both(), at("/message", `^Unauthorized; scope does not match$`)),
		},
		// dropbox.com/developers, error types of authentication.
		"dropbox": {
			dead(only401(), at("/error/.tag", `^(expired_access_token|invalid_access_token)$`)),
			notAllowed(both(), at("/error/.tag", `^(missing_scope|user_suspended|route_access_denied)$`)),
		},
		// developers.facebook.com, Graph API error handling: mostly 400, and a
		// challenge that is none.
		"facebook": {
			dead(with400(), at("/error/type", `^OAuthException$`), at("/error/code", `^190$`)).
				in(jsonType, "text/javascript"),
			notAllowed(with400(), at("/error/type", `^OAuthException$`), at("/error/code", `^(3|10|2[0-9][0-9])$`)).
				in(jsonType, "text/javascript"),
		},
		// docs.github.com/rest: a bad token is always 401, and 403 is about rights
		// and rate limits.
		"github": {
			dead(only401(), at("/message", `^Bad credentials$`)),
			notAllowed(only403(), at("/documentation_url", `^https://(docs|developer)\.github\.com/`)),
		},
		// learn.microsoft.com/linkedin, error handling.
		"linkedin": {
			dead(only401(), at("/serviceErrorCode", `^6560[0-4]$`)),
			notAllowed(only403(), at("/serviceErrorCode", `^100$`), at("/message", `^Not enough permissions to access`)),
		},
		// developer.salesforce.com, REST API status codes, and the identity service,
		// which says a word of text.
		"salesforce": {
			dead(both(), at("/0/errorCode", `^INVALID_SESSION_ID$`)),
			dead(only403(), text(`^Bad_OAuth_Token\s*$`)).in("text/plain", "text/html"),
			notAllowed(only403(), at("/0/errorCode",
				`^(INSUFFICIENT_ACCESS(_.*)?|REQUEST_LIMIT_EXCEEDED|API_DISABLED_FOR_ORG|FUNCTIONALITY_NOT_ENABLED)$`)),
			notAllowed(only403(), text(`^(Missing_OAuth_Token|Wrong_Org)\s*$`)).in("text/plain", "text/html"),
		},
		// developers.zoom.us: a scope that lacks is 400, at times 401 or 403, and
		// its message begins as if the token were bad.
		"zoom": {
			dead(only401(), at("/code", `^124$`), at("/message", `(?i)token`)),
			notAllowed(with400(), at("/code", `^4711$`), at("/message", `does not contain scopes`)),
		},
	}
}
