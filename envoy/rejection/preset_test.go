package rejection

import (
	"fmt"
	"slices"
	"testing"

	"github.com/rebearer/rebearer/tokens"
)

// What the presets say of answers that are not among the vectors, all of them
// together.
func TestPresets(t *testing.T) {
	t.Parallel()
	const json, text, xml, html = "application/json", "text/plain", "application/xml", "text/html;charset=UTF-8"
	tests := []struct {
		status      int
		contentType string
		body        string
		verdict     tokens.Verdict
		rule        string
	}{
		{403, json, `{"errors":[{"code":"Unauthorized","message":"Access to requested resource is denied.","details":"The access token you provided is revoked, malformed or invalid."}]}`, tokens.Dead, "preset:amazon_sp_api"},
		{403, json, `{"errors":[{"code":"Unauthorized","message":"Access to requested resource is denied.","details":"Access token is missing in the request header."}]}`, tokens.Unclear, RuleStatus},
		{401, json, `{"fault":{"faultstring":"Invalid Access Token","detail":{"errorcode":"keymanagement.service.invalid_access_token"}}}`, tokens.Dead, "preset:apigee"},
		{401, json, `{"fault":{"faultstring":"Invalid API call as no apiproduct match found","detail":{"errorcode":"keymanagement.service.InvalidAPICallAsNoApiProductMatchFound"}}}`, tokens.NotAllowed, "preset:apigee"},
		{403, json, `{"fault":{"faultstring":"Required scope(s): A","detail":{"errorcode":"steps.oauth.v2.InsufficientScope"}}}`, tokens.NotAllowed, "preset:apigee"},
		{403, json, `{"error":{"code":499,"message":"Token Required","details":[]}}`, tokens.NotAllowed, "preset:arcgis"},
		{403, json, `{"message":"The incoming token has expired"}`, tokens.Dead, "preset:aws"},
		{403, json, `{"message":"Forbidden"}`, tokens.Unclear, RuleStatus},
		{401, json, `{"error":{"code":"ExpiredAuthenticationToken","message":"The access token expiry UTC time is earlier than current UTC time."}}`, tokens.Dead, "preset:azure"},
		{401, json, `{"error":{"code":"InvalidAuthenticationTokenTenant","message":"The access token is from the wrong issuer."}}`, tokens.NotAllowed, "preset:azure"},
		{403, json, `{"error":{"code":"AuthorizationFailed","message":"The client does not have authorization to perform action"}}`, tokens.NotAllowed, "preset:azure"},
		{401, json, `{"description":"Invalid Auth Token","error_code":"CF-InvalidAuthToken","code":1000}`, tokens.Dead, "preset:cloudfoundry"},
		{403, json, `{"errors":[{"detail":"Your token lacks the necessary scopes","title":"CF-InsufficientScope","code":10007}]}`, tokens.NotAllowed, "preset:cloudfoundry"},
		{403, text, "rpc error making call: ACL not found", tokens.Unclear, RuleStatus},
		{403, text, "rpc error: code = Unknown desc = ACL not found", tokens.Dead, "preset:consul"},
		{403, text, "Permission denied: token with AccessorID '8d24a5d8' lacks permission 'key:write' on \"a\"", tokens.NotAllowed, "preset:consul"},
		{403, text, "Permission denied", tokens.Unclear, RuleStatus},
		{403, json, `{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}`, tokens.NotAllowed, "preset:docker"},
		{403, json, `{"errors":[{"code":"DENIED","message":"Your authorization token has expired."}]}`, tokens.Unclear, RuleStatus},
		{401, json, `{"error_summary":"missing_scope/..","error":{".tag":"missing_scope","required_scope":"files.content.read"}}`, tokens.NotAllowed, "preset:dropbox"},
		{403, json, `{"error":{"root_cause":[],"type":"security_exception","reason":"action [x] is unauthorized"},"status":403}`, tokens.NotAllowed, "preset:elasticsearch"},
		{403, text, "RBAC: access denied", tokens.NotAllowed, "preset:envoy"},
		{403, text, "The page says RBAC: access denied to somebody", tokens.Unclear, RuleStatus},
		{400, json, `{"error":{"message":"Error validating access token","type":"OAuthException","code":190,"error_subcode":463}}`, tokens.Dead, "preset:facebook"},
		{400, "text/javascript; charset=UTF-8", `{"error":{"message":"Invalid OAuth access token.","type":"OAuthException","code":190}}`, tokens.Dead, "preset:facebook"},
		{403, json, `{"error":{"message":"(#200) Permissions error","type":"OAuthException","code":200}}`, tokens.NotAllowed, "preset:facebook"},
		{401, json, `{"message":"Bad credentials","documentation_url":"https://docs.github.com/rest"}`, tokens.Dead, "preset:github"},
		{403, json, `{"message":"You have exceeded a secondary rate limit","documentation_url":"https://docs.github.com/free-pro-team@latest/rest"}`, tokens.NotAllowed, "preset:github"},
		{401, json, `{"error":"invalid_token","error_description":"Token was revoked. You have to re-authorize from the user."}`, tokens.Dead, "preset:gitlab"},
		{401, json, `{"error":{"code":401,"status":"UNAUTHENTICATED","details":[{"reason":"ACCESS_TOKEN_EXPIRED"}]}}`, tokens.Dead, "preset:google"},
		{401, json, `{"error":{"code":401,"status":"UNAUTHENTICATED","details":[{"@type":"x"}, {"reason": "ACCESS_TOKEN_TYPE_UNSUPPORTED"}]}}`, tokens.NotAllowed, "preset:google"},
		{401, json, `{"error":{"code":401,"status":"UNAUTHENTICATED","details":[{"text":"\"reason\":\"CREDENTIALS_MISSING\""}]}}`, tokens.Dead, "preset:google"},
		{403, json, `{"error":{"code":403,"status":"PERMISSION_DENIED","message":"x"}}`, tokens.NotAllowed, "preset:google"},
		{401, json, `{"error_description":"The access token is missing","error":"invalid_request"}`, tokens.NotAllowed, "preset:kong"},
		{403, json, `{"message":"You cannot consume this service"}`, tokens.Unclear, RuleStatus},
		{403, json, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"pods is forbidden","reason":"Forbidden","code":403}`, tokens.NotAllowed, "preset:kubernetes"},
		{403, json, `{"serviceErrorCode":100,"message":"Not enough permissions to access: GET /me","status":403}`, tokens.NotAllowed, "preset:linkedin"},
		{403, html, "Bad_OAuth_Token", tokens.Dead, "preset:salesforce"},
		{403, html, "Missing_OAuth_Token", tokens.NotAllowed, "preset:salesforce"},
		{403, json, `[{"message":"insufficient access rights on object id","errorCode":"INSUFFICIENT_ACCESS_OR_READONLY"}]`, tokens.NotAllowed, "preset:salesforce"},
		{403, json, `{"error":"Access to this API has been disallowed"}`, tokens.Unclear, RuleStatus},
		{403, json, `{"error":"Key is inactive, please renew"}`, tokens.Dead, "preset:tyk"},
		{403, json, `{"errors":["1 error occurred:\n\t* permission denied\n\n"]}`, tokens.Unclear, RuleStatus},
		{401, json, `{"fault":{"code":900903,"message":"Access Token Expired"}}`, tokens.Dead, "preset:wso2"},
		{401, xml, `<ams:fault xmlns:ams="http://wso2.org/apimanager/security"><ams:code>900904</ams:code><ams:message>Access Token Inactive</ams:message></ams:fault>`, tokens.Dead, "preset:wso2"},
		{401, xml, `<ams:fault xmlns:ams="http://wso2.org/apimanager/security"><ams:code>900909</ams:code></ams:fault>`, tokens.NotAllowed, "preset:wso2"},
		{401, json, `{"code":"900902","message":"Missing Credentials"}`, tokens.NotAllowed, "preset:wso2"},
		{401, json, `{"code":124,"message":"Invalid access token."}`, tokens.Dead, "preset:zoom"},
		{403, json, `{"code":4711,"message":"Invalid access token, does not contain scopes:[x]."}`, tokens.NotAllowed, "preset:zoom"},
	}
	rules := allPresets(t)
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%d %s", tt.status, tt.body), func(t *testing.T) {
			t.Parallel()
			got := rules.Decide(Response{Status: tt.status, ContentType: tt.contentType, Body: []byte(tt.body)})
			if want := (Decision{tt.verdict, tt.rule}); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

// Every preset makes good rules, each under its own name.
func TestPresetNames(t *testing.T) {
	t.Parallel()
	names := Presets()
	if !slices.IsSorted(names) || len(names) == 0 {
		t.Errorf("got %q", names)
	}
	for _, name := range names {
		rules, ok := Preset(name)
		if !ok || len(rules) == 0 {
			t.Errorf("%s: no rules", name)
		}
		for _, r := range rules {
			if r.Name != "preset:"+name || len(r.Statuses) == 0 {
				t.Errorf("%s: got %+v", name, r)
			}
		}
	}
	if rules, ok := Preset("nobody"); ok || rules != nil {
		t.Errorf("got %v", rules)
	}
}

// FuzzDecide has whatever a backend sends judged with all presets.
func FuzzDecide(f *testing.F) {
	for _, v := range readChallenges(f) {
		challenge := ""
		if len(v.WWWAuthenticate) > 0 {
			challenge = v.WWWAuthenticate[0]
		}
		f.Add(v.Status, challenge, v.ContentType, []byte(v.Body))
	}
	f.Add(403, "", "application/json", []byte(`{"a":{"a":{"a":1,"a":2}}}`))
	f.Add(401, "", "text/plain", []byte("\xff\xfe"))
	rules := allPresets(f)
	f.Fuzz(func(t *testing.T, status int, challenge, contentType string, body []byte) {
		r := Response{Status: status, ContentType: contentType, Body: body}
		if challenge != "" {
			r.WWWAuthenticate = []string{challenge}
		}
		got := rules.Decide(r)
		byHeaders := rules.Decide(Response{Status: status, ContentType: contentType, WWWAuthenticate: r.WWWAuthenticate})
		if got != byHeaders && !rules.WantsBody(r) {
			t.Errorf("the body decides, which is never read: %+v, without it %+v", got, byHeaders)
		}
		if got.Rule == "" {
			t.Errorf("got %+v", got)
		}
	})
}
